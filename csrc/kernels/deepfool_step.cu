// Launches deepfool_step: one kernel where a block has a sample to itself, two where blocks share
// it.
#include "deepfool_step.cuh"

#include "launch.cuh"

namespace jacfast::cuda {
namespace {

template <typename T, int VEC>
void run(const DeepFoolStep& op, Stream stream) {
  const int threads = threads_for(part_of(op.size, op.parts, 0).end, sizeof(T));
  const int64_t blocks = op.samples * op.parts;
  if (op.parts == 1) {
    launch("deepfool_step", deepfool_step_whole<T, VEC>, blocks, threads, stream, op);
    return;
  }
  launch("deepfool_step", deepfool_step_measure<T, VEC>, blocks, threads, stream, op);
  launch("deepfool_step", deepfool_step_finish<T, VEC>, blocks, threads, stream, op);
}

}  // namespace

void deepfool_step(const DeepFoolStep& op, Stream stream) {
  with_type(op.dtype, [&](auto type) {
    using T = decltype(type);
    const bool packs = aligned(op.rows, sizeof(T), {op.sample_stride, op.class_stride}) &&
                       aligned(op.r, sizeof(T), {op.size});
    packs ? run<T, 16 / sizeof(T)>(op, stream) : run<T, 1>(op, stream);
  });
}

}  // namespace jacfast::cuda
