// Launches orthonormal_cotangents: one block per sample.
#include "orthonormal_cotangents.cuh"

#include "launch.cuh"

namespace jacfast::cuda {

void orthonormal_cotangents(const OrthonormalCotangents& op, Stream stream) {
  const auto kernel = op.dtype == Dtype::f64 ? orthonormal_cotangents_rows<double>
                                             : orthonormal_cotangents_rows<float>;
  const auto warps = std::clamp<int64_t>((op.classes + 31) / 32, 1, JACFAST_MAX_THREADS / 32);
  launch("orthonormal_cotangents", kernel, op.samples, static_cast<int>(32 * warps), stream, op);
}

}  // namespace jacfast::cuda
