// Launches halfspace_projection: a team for each sample.
#include "halfspace_projection.cuh"

#include "launch.cuh"

namespace jacfast::cuda {
namespace {

template <typename T, int CUTS, int VEC>
void run(const HalfspaceProjection& op, Stream stream) {
  dim3 teams = teams_for(op.size, sizeof(T));
  teams.x = std::min<unsigned>(teams.x, PROJECTION_THREADS);
  launch("halfspace_projection", halfspace_projection_whole<T, CUTS, VEC>, op.samples, teams, op,
         stream, teams.y * static_cast<int64_t>(sizeof(Halfspaces)));
}

template <typename T>
void run(const HalfspaceProjection& op, Stream stream) {
  // Packs need 16-byte boundaries at the same entries of all rows.
  bool packs = op.size * sizeof(T) % 16 == 0;
  for (const void* from : {op.low, op.high, op.w})
    packs = packs && reinterpret_cast<uintptr_t>(from) % 16 == 0;
  if (op.cuts > 3)  // whose sums take the registers that packs would
    run<T, HALFSPACES, 1>(op, stream);
  else
    packs ? run<T, 3, 16 / sizeof(T)>(op, stream) : run<T, 3, 1>(op, stream);
}

}  // namespace

void halfspace_projection(const HalfspaceProjection& op, Stream stream) {
  op.dtype == Dtype::f64 ? run<double>(op, stream) : run<float>(op, stream);
}

}  // namespace jacfast::cuda
