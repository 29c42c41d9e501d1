// Launches orthonormal_cotangents: one team per sample, its rows in shared memory where they fit.
#include "orthonormal_cotangents.cuh"

#include "launch.cuh"

namespace jacfast::cuda {
namespace {

template <typename T>
void run(const OrthonormalCotangents& op, Stream stream) {
  const dim3 teams = teams_of(op.classes);
  const int64_t bytes = teams.y * op.rows * op.classes * sizeof(T);
  const bool fits = bytes <= SHARED_BYTES;
  launch("orthonormal_cotangents",
         fits ? orthonormal_cotangents_rows<T, true> : orthonormal_cotangents_rows<T, false>,
         op.samples, teams, op, stream, fits ? bytes : 0);
}

}  // namespace

void orthonormal_cotangents(const OrthonormalCotangents& op, Stream stream) {
  op.dtype == Dtype::f64 ? run<double>(op, stream) : run<float>(op, stream);
}

}  // namespace jacfast::cuda
