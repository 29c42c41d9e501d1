// The sums that a row of norm_first and norm_second needs, for every thread of its team.
#pragma once

#include "norm.cuh"

namespace jacfast::cuda {

// Of x, h = g times the weight, and u: the means; and of x x, h x, u x, u h, without their means,
// what the products come to.
template <bool SECOND>
struct Moments {
  Sums<SECOND ? 3 : 2> means;
  Sums<SECOND ? 4 : 2> products;
};

// Where entries are added: of half types, which have few digits, those of a pack among themselves.
template <typename T, typename B, typename P, int COUNT>
__device__ inline auto& pack_of(B (&pack)[COUNT], P (&sums)[COUNT]) {
  if constexpr (sizeof(T) == 2)
    return pack;
  else
    return sums;
}
template <typename B, typename P, int COUNT>
__device__ inline void add_pack(const B (&pack)[COUNT], P (&sums)[COUNT]) {
#pragma unroll
  for (int s = 0; s < COUNT; ++s) sums[s] += pack[s];
}

// Fill in the moments of a row, by sums in B; whether B has held them all. The mean of x is in two
// parts, as beside it entries can be differences; what the others' round off falls out of the sums.
template <typename B, bool SECOND, typename T, int VEC>
__device__ inline bool measure(const Norm& op, const int64_t row, Moments<SECOND>& moments) {
  if (op.centred) {
    ThreadSum<B> sums[SECOND ? 3 : 2] = {};
    for_row<SECOND, T, VEC>(op, row, [&](const auto& packs, auto size, const auto& at) {
      B pack[SECOND ? 3 : 2] = {};
      auto& to = pack_of<T>(pack, sums);
#pragma unroll
      for (int e = 0; e < size.value; ++e) {
        to[0] += B(wide(packs.x.at[e]));
        to[1] += B(at.weigh(wide(packs.g.at[e]), e));
        if constexpr (SECOND) to[2] += B(wide(packs.u.at[e]));
      }
      if constexpr (sizeof(T) == 2) add_pack(pack, sums);
    });
    moments.means = team_total(sums);
#pragma unroll
    for (double& mean : moments.means.at) mean /= static_cast<double>(op.row_size());
  }

  const B mean = B(moments.means.at[0]), rest = B(moments.means.at[0] - mean);
  const B mean_h = B(moments.means.at[1]),
          mean_u = SECOND ? B(moments.means.at[SECOND ? 2 : 0]) : 0;
  ThreadSum<B> sums[SECOND ? 4 : 2] = {};
  Largest<float, SECOND ? 2 : 1> largest;  // magnitudes of the factors h and u
  for_row<SECOND, T, VEC>(op, row, [&](const auto& packs, auto size, const auto& at) {
    B pack[SECOND ? 4 : 2] = {};
    auto& to = pack_of<T>(pack, sums);
#pragma unroll
    for (int e = 0; e < size.value; ++e) {
      const B x = without(B(wide(packs.x.at[e])), mean, rest);
      const B h = B(at.weigh(wide(packs.g.at[e]), e)) - mean_h;
      to[0] += x * x;
      to[1] += h * x;
      if constexpr (sizeof(B) == 4) largest.raise(0, fabsf(h));
      if constexpr (SECOND) {
        const B u = B(wide(packs.u.at[e])) - mean_u;
        to[2] += u * x;
        to[3] += u * h;
        if constexpr (sizeof(B) == 4) largest.raise(1, fabsf(u));
      }
    }
    if constexpr (sizeof(T) == 2) add_pack(pack, sums);
  });
  moments.products = team_total(sums);
  return sizeof(B) == 8 || (held(moments.products.at[0]) && held(moments.products, largest));
}

// In float32 where entries have no more digits, and float32 holds the sums: most cards have next to
// no float64.
template <bool SECOND, typename T, int VEC>
__device__ inline Moments<SECOND> moments_of(const Norm& op, const int64_t row) {
  Moments<SECOND> moments;
  if constexpr (sizeof(T) < 8)
    if (measure<float, SECOND, T, VEC>(op, row, moments)) return moments;
  measure<double, SECOND, T, VEC>(op, row, moments);
  return moments;
}

}  // namespace jacfast::cuda
