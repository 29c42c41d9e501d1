// Launches deepfool_candidate: one kernel where a block has a sample to itself, else three.
#include "deepfool_candidate.cuh"

#include "launch.cuh"

namespace jacfast::cuda {
namespace {

template <typename T, int VEC>
void run(const DeepFoolCandidate& op, Stream stream) {
  const char* name = "deepfool_candidate";
  const int threads = threads_for(part_of(op.size, op.parts, 0).end, sizeof(T));
  const int64_t blocks = op.samples * op.parts;
  if (op.parts == 1) {
    launch(name, deepfool_candidate_whole<T, VEC>, blocks, threads, stream, op);
    return;
  }
  launch(name, deepfool_candidate_measure<T, VEC>, blocks, threads, stream, op);
  launch(name, deepfool_candidate_decide<T>, (op.samples + 127) / 128, 128, stream, op);
  launch(name, deepfool_candidate_copy<T, VEC>, blocks, threads, stream, op);
}

}  // namespace

void deepfool_candidate(const DeepFoolCandidate& op, Stream stream) {
  with_type(op.dtype, [&](auto type) {
    using T = decltype(type);
    const bool packs =
        aligned(op.w, sizeof(T), {op.w_stride}) && aligned(op.nearest_w, sizeof(T), {op.size});
    packs ? run<T, 16 / sizeof(T)>(op, stream) : run<T, 1>(op, stream);
  });
}

}  // namespace jacfast::cuda
