// row_norm on the GPU. Floor of the op: R D entries read once.
#pragma once

#include "../ops/row_norm.h"
#include "sums.cuh"

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

// The measure of part of a row, for every thread of the team.
template <RowNormKind KIND, typename T>
__device__ inline Peak measure(const T* g, const Span part) {
  if constexpr (KIND == RowNormKind::sumsq) return {sum_part<Squared>(g, part), 0};
  if constexpr (KIND == RowNormKind::sumabs) return {sum_part<Magnitude>(g, part), 0};
  // Within a thread places only rise, so the first of equal maxima is the one that stays.
  Acc<T> highest = -1;
  int64_t where = part.end;
  for_packs<16 / sizeof(T), 4>(
      g, part.begin, part.end, [&](const int64_t d, auto size) { return load<size.value>(g + d); },
      [&](const int64_t d, const auto& entries, auto size) {
#pragma unroll
        for (int e = 0; e < size.value; ++e) {
          const Acc<T> value = fabs(wide(entries.at[e]));
          if (value <= highest || isnan(highest)) continue;
          highest = value;
          where = d + e;
        }
      });
  return team_reduce(Peak{highest, where}, higher);
}

template <RowNormKind KIND, typename A>
__device__ inline void write(const RowNorm& op, const int64_t row, const Peak peak) {
  if (threadIdx.x > 0) return;
  static_cast<A*>(op.value)[row] = static_cast<A>(peak.value);
  if (KIND == RowNormKind::maxabs) op.where[row] = peak.where;
}

template <typename T>
__device__ inline const T* row_of(const RowNorm& op, const int64_t row) {
  return static_cast<const T*>(op.g) + row * op.stride;
}

// Team i measures row i. Floor: the bytes of g.
template <RowNormKind KIND, typename T>
__global__ __launch_bounds__(JACFAST_MAX_THREADS, 2) void row_norm_whole(const RowNorm op) {
  const int64_t row = item();
  if (row >= op.rows) return;
  write<KIND, Acc<T>>(op, row, measure<KIND>(row_of<T>(op, row), {0, op.size}));
}

// Team b measures part b % parts of row b / parts. Floor: the bytes of g.
template <RowNormKind KIND, typename T>
__global__ __launch_bounds__(JACFAST_MAX_THREADS, 2) void row_norm_parts(const RowNorm op) {
  const int64_t row = item() / op.parts;
  if (row >= op.rows) return;
  const Span part = part_of(op.size, op.parts, item() % op.parts);
  const Peak peak = measure<KIND>(row_of<T>(op, row), part);
  if (threadIdx.x > 0) return;
  op.partial[item()] = peak.value;
  if (KIND == RowNormKind::maxabs) op.partial_where[item()] = peak.where;
}

// Team i joins the parts of row i. Floor: 8 bytes a part, 16 for maxabs.
template <RowNormKind KIND, typename A>
__global__ __launch_bounds__(JACFAST_MAX_THREADS, 2) void row_norm_join(const RowNorm op) {
  const int64_t row = item();
  if (row >= op.rows) return;
  const double* partial = op.partial + row * op.parts;
  if constexpr (KIND == RowNormKind::maxabs) {
    Peak peak{-1, op.size};
    for (int64_t p = threadIdx.x; p < op.parts; p += blockDim.x)
      peak = higher(peak, {partial[p], op.partial_where[row * op.parts + p]});
    write<KIND, A>(op, row, team_reduce(peak, higher));
  } else {
    write<KIND, A>(op, row, {sum_of_parts(partial, op.parts), 0});
  }
}

}  // namespace jacfast::cuda
