// The contract of orthonormal_cotangents between the op (checks, allocation) and its twins.
#pragma once

#include <cstdint>

#include "../dtype.h"
#include "../kernels/stream.h"

namespace jacfast {

struct OrthonormalCotangents {
  Dtype dtype;           // f32 or f64
  int64_t samples;       // N
  int64_t rows;          // n, at most dim
  int64_t classes;       // K
  bool centred;          // draw orthogonal to the all-ones vector: dim = K - 1, else dim = K
  const void* gaussian;  // [N, n, K], contiguous
  void* out;             // [N, n, K], contiguous
};

namespace cpu {
void orthonormal_cotangents(const OrthonormalCotangents& op, int threads);
}
namespace cuda {
void orthonormal_cotangents(const OrthonormalCotangents& op, Stream stream);
}

}  // namespace jacfast
