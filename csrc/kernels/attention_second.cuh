// attention_second on the GPU. Floor of the op: 4 R S entries read once and written once; the two
// sweeps before the last one find them in the caches. Predicted for an H100, float32: 32 bytes an
// entry, so 40 us for the 2,048 x 2,048 scores of a head at 3.35 TB/s, and less where products
// before and after it find the tile in the second-level cache, which holds several; two
// exponentials and 10 double-precision operations an entry are 5 us.
#pragma once

#include "../ops/attention_second.h"
#include "sums.cuh"

namespace jacfast::cuda {

// The largest score so far. A NaN is left to the sums.
template <typename T>
struct Largest {
  T value;
  __device__ Largest from_lane(const int lanes) const { return {lane_xor(value, lanes)}; }
};

// One pack of each plane of the tile.
template <typename T, int VEC>
struct Planes {
  Pack<T, VEC> at[4];
};

// Blocks on a multiprocessor at least: the exponential of a double takes registers.
template <typename T>
constexpr int BLOCKS = sizeof(T) == 8 ? 1 : 2;

// Team i takes row i. Floor: the bytes of the tile, twice.
template <typename T, int VEC>
__global__ __launch_bounds__(JACFAST_MAX_THREADS,
                             BLOCKS<T>) void attention_second_rows(const AttentionSecond op) {
  const int64_t row = item(), plane = op.rows * op.size;
  if (row >= op.rows) return;
  T* const first = static_cast<T*>(op.tile) + row * op.size;
  const auto read = [&](const int64_t d, auto size) {
    Planes<T, size.value> planes;
#pragma unroll
    for (int k = 0; k < 4; ++k) planes.at[k] = load<size.value>(first + k * plane + d);
    return planes;
  };

  Largest<T> most{-INFINITY};
  for_packs<VEC, 4>(
      first, 0, op.size, [&](const int64_t d, auto size) { return load<size.value>(first + d); },
      [&](int64_t, const auto& scores, auto size) {
#pragma unroll
        for (int e = 0; e < size.value; ++e) most.value = fmax(most.value, scores.at[e]);
      });
  most = team_reduce(most, [](const Largest<T> a, const Largest<T> b) -> Largest<T> {
    return {fmax(a.value, b.value)};
  });
  // Of a row that is masked whole u is 0; fmax passes by a NaN, which is no reason to say so.
  const T from = most.value == -INFINITY ? T(0) : most.value;

  Sums<5> sums;  // of u in proportion to P: u, u dP, u E, u E dP, u F
  for_packs<VEC, 1>(first, 0, op.size, read, [&](int64_t, const auto& planes, auto size) {
#pragma unroll
    for (int e = 0; e < size.value; ++e) {
      const double u = exp(planes.at[0].at[e] - from), dp = planes.at[1].at[e];
      const double across = planes.at[2].at[e];
      sums.at[0] += u;
      sums.at[1] += u * dp;
      sums.at[2] += u * across;
      sums.at[3] += u * across * dp;
      sums.at[4] += u * planes.at[3].at[e];
    }
  });
  sums = team_sum(sums);

  // Masked whole: 0, also where dP, E or F is not finite. Not unrolled, as the last sweep has no
  // register to spare.
  if (sums.at[0] == 0) {
    team_sync();  // until others have read what this thread writes
#pragma unroll 1
    for (int k = 0; k < 4; ++k)
#pragma unroll 1
      for (int64_t d = threadIdx.x; d < op.size; d += blockDim.x) first[k * plane + d] = 0;
    return;
  }
  const double inverse = 1 / sums.at[0];
  const double mean_dp = sums.at[1] * inverse, mean_e = sums.at[2] * inverse;
  const T scale = T(inverse), of_dp = T(mean_dp), of_e = T(mean_e);
  const T of_g = T(sums.at[3] * inverse - mean_dp * mean_e + sums.at[4] * inverse);
  for_packs<VEC, 1>(first, 0, op.size, read, [&](const int64_t d, auto planes, auto size) {
#pragma unroll
    for (int e = 0; e < size.value; ++e) {
      const T p = exp(planes.at[0].at[e] - from) * scale;
      const T along = planes.at[1].at[e] - of_dp, across = planes.at[2].at[e] - of_e;
      planes.at[0].at[e] = p;
      planes.at[1].at[e] = p * along;
      planes.at[2].at[e] = p * across;
      planes.at[3].at[e] = p * (across * along + planes.at[3].at[e] - of_g);
    }
#pragma unroll
    for (int k = 0; k < 4; ++k) store<size.value>(first + k * plane + d, planes.at[k]);
  });
}

}  // namespace jacfast::cuda
