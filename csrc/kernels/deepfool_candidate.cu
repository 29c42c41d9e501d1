// Launches deepfool_candidate: one kernel where a team has a sample to itself, else three.
#include "deepfool_candidate.cuh"

#include "launch.cuh"

namespace jacfast::cuda {
namespace {

template <typename T>
void run(const DeepFoolCandidate& op, Stream stream) {
  const char* name = "deepfool_candidate";
  const dim3 teams = teams_for(part_of(op.size, op.parts, 0).end, sizeof(T));
  const int64_t items = op.samples * op.parts;
  if (op.parts == 1) {
    launch(name, deepfool_candidate_whole<T>, items, teams, op, stream);
    return;
  }
  launch(name, deepfool_candidate_measure<T>, items, teams, op, stream);
  launch(name, deepfool_candidate_decide<T>, op.samples, teams_of(32), op, stream);
  launch(name, deepfool_candidate_copy<T>, items, teams, op, stream);
}

}  // namespace

void deepfool_candidate(const DeepFoolCandidate& op, Stream stream) {
  with_type(op.dtype, [&](auto type) { run<decltype(type)>(op, stream); });
}

}  // namespace jacfast::cuda
