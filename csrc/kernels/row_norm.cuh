// row_norm on the GPU. Floor: R D entries read once; [R] values written.
#pragma once

#include "../ops/row_norm.h"
#include "device.cuh"

namespace jacfast::cuda {

// The largest |g| so far and its first place; a NaN is larger than everything.
struct Peak {
  double value;
  int64_t where;
  __device__ Peak from_lane(const int lanes) const {
    return {lane_xor(value, lanes), lane_xor(where, lanes)};
  }
};

__device__ inline Peak higher(const Peak a, const Peak b) {
  const bool a_nan = isnan(a.value), b_nan = isnan(b.value);
  if (a_nan != b_nan) return a_nan ? a : b;
  if (a_nan || a.value == b.value) return a.where < b.where ? a : b;
  return a.value > b.value ? a : b;
}

template <typename T, int VEC>
__device__ inline Peak peak_part(const T* g, const Span part) {
  Peak peak{-1, part.end};  // of no entries: lower than any other
  for_packs<VEC>(part.begin, part.end, [&](const int64_t d, auto pack) {
    const auto entries = load<pack.value>(g + d);
#pragma unroll
    for (int e = 0; e < pack.value; ++e)
      peak = higher(peak, {fabs(static_cast<double>(wide(entries.at[e]))), d + e});
  });
  return block_reduce(peak, higher);
}

// Block b measures part b % parts of row b / parts; its threads take packs in turn.
template <RowNormKind KIND, typename T, int VEC>
__global__ __launch_bounds__(512) void row_norm_parts(const RowNorm op) {
  const int64_t row = blockIdx.x / op.parts;
  const Span part = part_of(op.size, op.parts, blockIdx.x % op.parts);
  const T* g = static_cast<const T*>(op.g) + row * op.stride;
  if constexpr (KIND == RowNormKind::maxabs) {
    const Peak peak = peak_part<T, VEC>(g, part);
    if (threadIdx.x > 0) return;
    op.partial[blockIdx.x] = peak.value;
    op.partial_where[blockIdx.x] = peak.where;
  } else {
    const double sum = sum_part<VEC>(
        g, part, [](const double v) { return KIND == RowNormKind::sumsq ? v * v : fabs(v); });
    if (threadIdx.x == 0) op.partial[blockIdx.x] = sum;
  }
}

// Thread t of block b joins the parts of row b * blockDim + t, in order.
template <RowNormKind KIND, typename A>
__global__ __launch_bounds__(512) void row_norm_join(const RowNorm op) {
  const int64_t row = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (row >= op.rows) return;
  const double* partial = op.partial + row * op.parts;
  if constexpr (KIND == RowNormKind::maxabs) {
    const int64_t* where = op.partial_where + row * op.parts;
    Peak peak{partial[0], where[0]};
    for (int64_t p = 1; p < op.parts; ++p) peak = higher(peak, {partial[p], where[p]});
    static_cast<A*>(op.value)[row] = static_cast<A>(peak.value);
    op.where[row] = peak.where;
  } else {
    double sum = partial[0];
    for (int64_t p = 1; p < op.parts; ++p) sum += partial[p];
    static_cast<A*>(op.value)[row] = static_cast<A>(sum);
  }
}

}  // namespace jacfast::cuda
