// orthonormal_cotangents on the GPU. Floor of the op: N n K entries read once, written once.
#pragma once

#include <cfloat>

#include "../ops/orthonormal_cotangents.h"
#include "sums.cuh"

namespace jacfast::cuda {

__device__ inline double epsilon(float) { return FLT_EPSILON; }
__device__ inline double epsilon(double) { return DBL_EPSILON; }

// One sample: each thread owns the same columns of every row, so rows need no barrier of their own.
template <typename T>
struct CotangentRows {
  int64_t classes;
  bool centred;
  T* rows;

  template <typename F>
  __device__ void own(F&& body) const {
    for (int64_t k = threadIdx.x; k < classes; k += blockDim.x) body(k);
  }

  __device__ double dot(const T* a, const T* b) const {
    double sum = 0;
    own([&](const int64_t k) { sum += static_cast<double>(a[k]) * b[k]; });
    return team_sum(sum);
  }

  // Make row j orthogonal to the rows before it and of unit length; say whether that went.
  __device__ bool orthogonalise(const int64_t j) const {
    T* row = rows + j * classes;
    const double before = sqrt(dot(row, row));
    for (int pass = 0; pass < 2; ++pass) {  // twice: once leaves the errors of cancellation
      if (centred) subtract_mean(row);
      for (int64_t i = 0; i < j; ++i) {
        const T* unit = rows + i * classes;
        const double projection = dot(row, unit);
        own([&](const int64_t k) { row[k] = static_cast<T>(row[k] - projection * unit[k]); });
      }
    }
    const double after = sqrt(dot(row, row));
    if (!(after > 16.0 * classes * epsilon(T{}) * before) || !isfinite(after)) return false;
    own([&](const int64_t k) { row[k] = static_cast<T>(row[k] / after); });
    return true;
  }

  __device__ void subtract_mean(T* row) const {
    double sum = 0;
    own([&](const int64_t k) { sum += row[k]; });
    const double mean = team_sum(sum) / classes;
    own([&](const int64_t k) { row[k] = static_cast<T>(row[k] - mean); });
  }
};

// Team i runs Gram-Schmidt on the rows of sample i, in shared memory where they fit; thread t has
// columns t, t + blockDim.x, ... Floor: twice the bytes of gaussian.
template <typename T, bool STAGED>
__global__ __launch_bounds__(JACFAST_MAX_THREADS,
                             2) void orthonormal_cotangents_rows(const OrthonormalCotangents op) {
  const int64_t i = item(), entries = op.rows * op.classes;
  if (i >= op.samples) return;
  const T* gaussian = static_cast<const T*>(op.gaussian) + i * entries;
  T* out = static_cast<T*>(op.out) + i * entries;
  T* staged = static_cast<T*>(dynamic_shared()) + threadIdx.y * entries;
  const CotangentRows<T> sample{op.classes, op.centred, STAGED ? staged : out};
  for (int64_t j = 0; j < op.rows; ++j) {
    T* row = sample.rows + j * op.classes;
    sample.own([&](const int64_t k) { row[k] = gaussian[j * op.classes + k]; });
    // A dependent row gives way to the first unit vector that is not: at most j + 1 are.
    for (int64_t unit = 0; !sample.orthogonalise(j) && unit < op.classes; ++unit)
      sample.own([&](const int64_t k) { row[k] = k == unit ? T(1) : T(0); });
  }
  const double dim = static_cast<double>(op.classes - op.centred);
  const T scale = static_cast<T>(sqrt(dim / static_cast<double>(op.rows)));
  for (int64_t j = 0; j < op.rows; ++j)
    sample.own([&](const int64_t k) {
      out[j * op.classes + k] = sample.rows[j * op.classes + k] * scale;
    });
}

}  // namespace jacfast::cuda
