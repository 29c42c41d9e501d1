// Sums over rows. Those that are reduced over a team are float64; a pack's may be float32.
#pragma once

#include "device.cuh"

namespace jacfast::cuda {

// Sums that are reduced together.
template <int COUNT>
struct Sums {
  double at[COUNT] = {};
  __device__ Sums from_lane(const int lanes) const {
    Sums other;
#pragma unroll
    for (int s = 0; s < COUNT; ++s) other.at[s] = lane_xor(at[s], lanes);
    return other;
  }
};
template <int COUNT>
__device__ inline Sums<COUNT> team_sum(const Sums<COUNT>& sums) {
  return team_reduce(sums, [](Sums<COUNT> a, const Sums<COUNT>& b) {
#pragma unroll
    for (int s = 0; s < COUNT; ++s) a.at[s] += b.at[s];
    return a;
  });
}
__device__ inline double team_sum(const double value) { return team_sum(Sums<1>{{value}}).at[0]; }

// The sum of a pack in float32, as high + low: float64 is slow on most cards (two additions or
// conversions for each clock and multiprocessor). `low` has the rounding errors of the additions,
// each of which is itself a float (Knuth's two-sum), and those of products, by a fused
// multiply-add: Dot2 of Ogita, Rump & Oishi (2005). By name, so that no compiler rearranges or
// joins them.
struct PackSum {
  float high, low;
  __device__ void add(const float value) {
    const float sum = __fadd_rn(high, value), added = __fsub_rn(sum, high);
    const float lost = __fsub_rn(high, __fsub_rn(sum, added));
    low = __fadd_rn(low, __fadd_rn(lost, __fsub_rn(value, added)));
    high = sum;
  }
};

// Terms of sums, of an entry in float64 and of one in float32.
struct Squared {
  static __device__ double of(const double v) { return v * v; }
  template <bool SHORT>  // v is a number of a half type, and its square one of float32
  static __device__ PackSum of(const float v) {
    const float square = __fmul_rn(v, v);
    return {square, SHORT ? 0 : __fmaf_rn(v, v, -square)};
  }
};
struct Magnitude {
  static __device__ double of(const double v) { return fabs(v); }
  template <bool SHORT>
  static __device__ PackSum of(const float v) {
    return {fabsf(v), 0};
  }
};

// The sum of the terms of value(0) .. value(COUNT - 1).
template <typename Term, bool SHORT, int COUNT, typename Value>
__device__ inline PackSum pack_sum(Value&& value) {
  PackSum sum = Term::template of<SHORT>(value(0));
#pragma unroll
  for (int e = 1; e < COUNT; ++e) {
    const PackSum next = Term::template of<SHORT>(value(e));
    sum.add(next.high);
    if (std::is_same_v<Term, Squared> && !SHORT) sum.low = __fadd_rn(sum.low, next.low);
  }
  return sum;
}

// Whether float32 could hold the terms of such a sum: what the smallest lost, up to 2^-149 each, is
// beyond its precision, and none was infinite, which leaves a NaN, or infinity where it is alone in
// its pack (the square of a large bfloat16).
__device__ inline bool held(const double sum) { return sum >= 0x1p-70 && sum < INFINITY; }

// The sum of the terms over part of a row, for every thread of the team: in packs of float32, two
// in flight as registers allow, and in float64 where T is double or float32 does not hold it.
template <typename Term, typename T>
__device__ inline double sum_part(const T* row, const Span part) {
  constexpr bool in_packs = sizeof(T) < 8;
  const auto in_row = [&](auto unroll, auto&& use) {
    for_packs<16 / sizeof(T), unroll.value>(
        row, part.begin, part.end,
        [&](const int64_t d, auto size) { return load<size.value>(row + d); }, use);
  };
  double sum = 0;
  if constexpr (in_packs) {
    float low = 0;
    in_row(std::integral_constant<int, 2>{}, [&](int64_t, const auto& entries, auto size) {
      const auto value = [&](const int e) { return wide(entries.at[e]); };
      const PackSum pack = pack_sum<Term, sizeof(T) == 2, size.value>(value);
      sum += pack.high;
      low = __fadd_rn(low, pack.low);
    });
    sum = team_sum(sum + low);
    if (held(sum)) return sum;
    sum = 0;
  }
  in_row(std::integral_constant<int, in_packs ? 1 : 4>{},
         [&](int64_t, const auto& entries, auto size) {
#pragma unroll
           for (int e = 0; e < size.value; ++e) sum += Term::of(double{wide(entries.at[e])});
         });
  return team_sum(sum);
}

// The sum of what the parts of one item came to, for every thread of the team.
__device__ inline double sum_of_parts(const double* partial, const int64_t parts) {
  double sum = 0;
  for (int64_t p = threadIdx.x; p < parts; p += blockDim.x) sum += partial[p];
  return team_sum(sum);
}

}  // namespace jacfast::cuda
