// attention_second on the GPU. Floor of the op: 4 R S entries read once and written once; the two
// sweeps before the last one find them in the caches. Predicted for an H100, float32: 32 bytes an
// entry, so 40 us for the 2,048 x 2,048 scores of a head at 3.35 TB/s, and less where products
// before and after it find the tile in the second-level cache, which holds several.
#pragma once

#include "../ops/attention_second.h"
#include "sums.cuh"

namespace jacfast::cuda {

// One pack of each plane of the tile.
template <typename T, int VEC>
struct Planes {
  Pack<T, VEC> at[4];
};

// Blocks on a multiprocessor at least: the exponential of a double takes registers.
template <typename T>
constexpr int BLOCKS = sizeof(T) == 8 ? 1 : 2;

// A row of each of the four planes.
template <typename T>
struct Rows {
  T* first;
  int64_t plane, length;

  // Give this thread its share: use(d, planes, size).
  template <int VEC, typename Use>
  __device__ void for_planes(Use&& use) const {
    const auto read = [&](const int64_t d, auto size) {
      Planes<T, size.value> planes;
#pragma unroll
      for (int k = 0; k < 4; ++k) planes.at[k] = load<size.value>(first + k * plane + d);
      return planes;
    };
    for_packs<VEC, 1>(first, 0, length, read, use);
  }
};

// The largest score; a NaN is left to the sums.
template <int VEC, typename T>
__device__ inline T largest_of(const Rows<T>& rows) {
  Largest<T, 1> most{{-INFINITY}};
  for_packs<VEC, 4>(
      rows.first, 0, rows.length,
      [&](const int64_t d, auto size) { return load<size.value>(rows.first + d); },
      [&](int64_t, const auto& scores, auto size) {
#pragma unroll
        for (int e = 0; e < size.value; ++e) most.raise(0, scores.at[e]);
      });
  return team_largest(most).at[0];
}

// Sums of u = exp(score - from), in proportion to P: of u, u dP, u E, u (E dP + F), by sums in B;
// whether B has held them all.
template <typename B, int VEC, typename T>
__device__ inline bool add_up(const Rows<T>& rows, const T from, Sums<4>& sums) {
  ThreadSum<B> partial[4] = {};
  Largest<float, 3> largest;  // magnitudes of dP, E and F
  rows.template for_planes<VEC>([&](int64_t, const auto& planes, auto size) {
#pragma unroll
    for (int e = 0; e < size.value; ++e) {
      const B u = exp(planes.at[0].at[e] - from), dp = planes.at[1].at[e];
      const B across = planes.at[2].at[e], f = planes.at[3].at[e];
      const auto u_across = product(u, across);
      partial[0] += u;
      partial[1] += product(u, dp);
      partial[2] += u_across;
      partial[3] += product(u_across, dp);
      partial[3] += product(u, f);
      if constexpr (sizeof(B) == 4) {
        largest.raise(0, fabs(dp));
        largest.raise(1, fabs(across));
        largest.raise(2, fabs(f));
      }
    }
  });
  sums = team_total(partial);
  return sizeof(B) == 8 || held(sums, largest);
}

// In float32 where entries have no more digits, and float32 holds the sums.
template <int VEC, typename T>
__device__ inline Sums<4> sums_of(const Rows<T>& rows, const T from) {
  Sums<4> sums;
  if constexpr (sizeof(T) == 4)
    if (add_up<float, VEC>(rows, from, sums)) return sums;
  add_up<double, VEC>(rows, from, sums);
  return sums;
}

// Team i takes row i. Floor: the bytes of the tile, twice.
template <typename T, int VEC>
__global__ __launch_bounds__(JACFAST_MAX_THREADS,
                             BLOCKS<T>) void attention_second_rows(const AttentionSecond op) {
  const int64_t row = item(), plane = op.rows * op.size;
  if (row >= op.rows) return;
  T* const first = static_cast<T*>(op.tile) + row * op.size;
  const Rows<T> rows{first, plane, op.size};
  const T most = largest_of<VEC>(rows);
  // Of a row that is masked whole u is 0; fmax passes by a NaN, which is no reason to say so.
  const T from = most == -INFINITY ? T(0) : most;
  const Sums<4> sums = sums_of<VEC>(rows, from);

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
  const T of_g = T(sums.at[3] * inverse - mean_dp * mean_e);
  rows.template for_planes<VEC>([&](const int64_t d, auto planes, auto size) {
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
