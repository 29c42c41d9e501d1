// The rules of DeepFool that the step and the candidate share.
#pragma once

#include <cfloat>

#include "sums.cuh"

namespace jacfast::cuda {

__device__ inline double smallest_normal(float) { return FLT_MIN; }
__device__ inline double smallest_normal(double) { return DBL_MIN; }

// Whether ||w|| can be divided by: finite and above the smallest normal number.
template <typename A>
__device__ inline bool usable(const double norm) {
  return norm > smallest_normal(A{}) && isfinite(norm);
}

// |f| / ||w||, rounded to the type that distances are compared in; NaN loses every comparison.
template <typename A>
__device__ inline A distance_to(const A f, const double norm) {
  return static_cast<A>(fabs(static_cast<double>(f)) / norm);
}

// Infinity, the distance before any class was usable.
__device__ inline double never() { return __longlong_as_double(0x7ff0000000000000LL); }

}  // namespace jacfast::cuda
