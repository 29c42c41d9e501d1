// Launches deepfool_step: one kernel where a team has a sample to itself, two where teams share it.
#include "deepfool_step.cuh"

#include "launch.cuh"

namespace jacfast::cuda {
namespace {

template <typename T, int VEC>
void run(const DeepFoolStep& op, Stream stream) {
  const dim3 teams = teams_for(part_of(op.size, op.parts, 0).end, sizeof(T));
  const int64_t items = op.samples * op.parts;
  if (op.parts == 1) {
    launch("deepfool_step", deepfool_step_whole<T, VEC>, items, teams, op, stream);
    return;
  }
  launch("deepfool_step", deepfool_step_measure<T, VEC>, items, teams, op, stream);
  launch("deepfool_step", deepfool_step_finish<T, VEC>, items, teams, op, stream);
}

}  // namespace

void deepfool_step(const DeepFoolStep& op, Stream stream) {
  with_type(op.dtype, [&](auto type) {
    using T = decltype(type);
    // Packs need 16-byte boundaries at the same entries of all rows of a sample.
    const bool packs = op.class_stride * sizeof(T) % 16 == 0;
    packs ? run<T, 16 / sizeof(T)>(op, stream) : run<T, 1>(op, stream);
  });
}

}  // namespace jacfast::cuda
