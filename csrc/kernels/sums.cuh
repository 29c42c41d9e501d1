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

// A sum in float32, as high + low: float64 is slow on most cards (two additions or conversions for
// each clock and multiprocessor). `low` has what additions round off, each time a float itself
// (Knuth's two-sum). Its operations are by name, so that no compiler rearranges or joins them.
struct FloatSum {
  float high = 0, low = 0;
  __device__ void operator+=(const float value) {
    const float sum = __fadd_rn(high, value), added = __fsub_rn(sum, high);
    const float lost = __fsub_rn(high, __fsub_rn(sum, added));
    low = __fadd_rn(low, __fadd_rn(lost, __fsub_rn(value, added)));
    high = sum;
  }
  __device__ void operator+=(const FloatSum& other) {
    *this += other.high;
    low = __fadd_rn(low, other.low);
  }
  __device__ double total() const { return double{high} + low; }
};
__device__ inline double total(const FloatSum& sum) { return sum.total(); }
__device__ inline double total(const double sum) { return sum; }

// A thread's sum of values of type A.
template <typename A>
using ThreadSum = std::conditional_t<sizeof(A) == 4, FloatSum, double>;

template <int COUNT, typename P>
__device__ inline Sums<COUNT> team_total(const P (&partial)[COUNT]) {
  Sums<COUNT> sums;
#pragma unroll
  for (int s = 0; s < COUNT; ++s) sums.at[s] = total(partial[s]);
  return team_sum(sums);
}

// Products with what their rounding loses, in the type of a thread's sum.
__device__ inline FloatSum product(const float a, const float b) {
  const float high = __fmul_rn(a, b);
  return {high, __fmaf_rn(a, b, -high)};
}
__device__ inline FloatSum product(const FloatSum& a, const float b) {
  const FloatSum high = product(a.high, b);
  return {high.high, __fmaf_rn(a.low, b, high.low)};
}
__device__ inline double product(const double a, const double b) { return a * b; }

// The largest values of a thread, reduced together; of NaN nothing is known.
template <typename T, int COUNT>
struct Largest {
  T at[COUNT] = {};
  __device__ void raise(const int s, const T value) { at[s] = fmax(at[s], value); }
  __device__ Largest from_lane(const int lanes) const {
    Largest other;
#pragma unroll
    for (int s = 0; s < COUNT; ++s) other.at[s] = lane_xor(at[s], lanes);
    return other;
  }
};
template <typename T, int COUNT>
__device__ inline Largest<T, COUNT> team_largest(const Largest<T, COUNT>& largest) {
  return team_reduce(largest, [](Largest<T, COUNT> a, const Largest<T, COUNT>& b) {
#pragma unroll
    for (int s = 0; s < COUNT; ++s) a.raise(s, b.at[s]);
    return a;
  });
}

// Terms of sums: of an entry, and in float32 added to `to` and rounded once.
struct Squared {
  template <typename A>
  static __device__ A of(const A v) {
    return v * v;
  }
  static __device__ float plus(const float v, const float to) { return __fmaf_rn(v, v, to); }
};
struct Magnitude {
  template <typename A>
  static __device__ A of(const A v) {
    return fabs(v);
  }
  static __device__ float plus(const float v, const float to) { return __fadd_rn(fabsf(v), to); }
};

// The sum of the terms of value(0) .. value(COUNT - 1). It begins at twice what they can come to
// and stays below twice that, so that differences are exact (Sterbenz), and what an addition rounds
// off is half as much work as in a two-sum; of products too, as in Dot2 of Ogita, Rump & Oishi
// (2005).
template <typename Term, int COUNT, typename Value>
__device__ inline FloatSum pack_sum(Value&& value) {
  float most = 0;
#pragma unroll
  for (int e = 0; e < COUNT; ++e) most = fmaxf(most, fabsf(value(e)));
  const float begin = 2 * COUNT * Term::of(most);
  FloatSum sum{begin, 0};
#pragma unroll
  for (int e = 0; e < COUNT; ++e) {
    const float next = Term::plus(value(e), sum.high);
    sum.low = __fadd_rn(sum.low, Term::plus(value(e), __fsub_rn(sum.high, next)));
    sum.high = next;
  }
  sum.high = __fsub_rn(sum.high, begin);
  return sum;
}

// Whether float32 could hold the terms of such a sum: what the smallest lost, up to 2^-149 each, is
// beyond its precision, and none was infinite, which leaves a NaN, or infinity where it is alone in
// its pack (the square of a large bfloat16).
__device__ inline bool held(const double sum) { return sum >= 0x1p-70 && sum < INFINITY; }

// The same of sums of products of two factors and a weight up to 1, of whose magnitudes the largest
// in a thread are known: 2^-149 is beyond their precision where a weight of 2^-26 or more has a
// part in the sum. One of products of 2^-100 under smaller weights alone loses up to 2^-50 over a
// weight.
template <int SUMS, int FACTORS>
__device__ inline bool held(const Sums<SUMS>& sums, const Largest<float, FACTORS>& largest) {
  bool each = true;
#pragma unroll
  for (const float most : team_largest(largest).at) each &= most == 0 || most >= 0x1p-50f;
#pragma unroll
  for (const double sum : sums.at) each &= isfinite(sum);
  return each;
}

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
  if constexpr (in_packs) {
    FloatSum short_sum;
    in_row(std::integral_constant<int, 2>{}, [&](int64_t, const auto& entries, auto size) {
      const auto value = [&](const int e) { return wide(entries.at[e]); };
      short_sum += pack_sum<Term, size.value>(value);
    });
    const double sum = team_sum(short_sum.total());
    if (held(sum)) return sum;
  }
  double sum = 0;
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
