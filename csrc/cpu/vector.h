// Types of sums and vectorised sums of the CPU twins.
#pragma once

#include <array>
#include <cmath>
#include <cstdint>

#include "../dtype.h"
#include "clones.h"
#include "half.h"

namespace jacfast::cpu {

template <typename T>
struct AccOf {
  using type = float;
};
template <>
struct AccOf<double> {
  using type = double;
};
// The type of differences and results: float for half types, else T. Sums are always double.
template <typename T>
using Acc = typename AccOf<T>::type;

template <typename T>
inline Acc<T> wide(const T value) {
  return static_cast<Acc<T>>(value);
}

// Call body(T{}) with the C++ type of `dtype`.
template <typename F>
void with_type(const Dtype dtype, F&& body) {
  switch (dtype) {
    case Dtype::f32: return body(float{});
    case Dtype::f64: return body(double{});
    case Dtype::f16: return body(Half{});
    case Dtype::bf16: return body(BFloat16{});
  }
}

// Independent partial sums: enough for four 512-bit registers of doubles in flight.
constexpr int64_t LANES = 32;

// By halves, so always in the same order. The last eight are a vector by type: of loops as short as
// theirs compilers make single additions, by way of memory.
template <int64_t COUNT = LANES>
[[gnu::always_inline]] inline double fold(const double* lanes) {
  if constexpr (COUNT > 8) {
    double half[COUNT / 2];
    for (int64_t l = 0; l < COUNT / 2; ++l) half[l] = lanes[l] + lanes[l + COUNT / 2];
    return fold<COUNT / 2>(half);
  }
  using Four [[gnu::vector_size(32)]] = double;
  using Two [[gnu::vector_size(16)]] = double;
  const Four four =
      Four{lanes[0], lanes[1], lanes[2], lanes[3]} + Four{lanes[4], lanes[5], lanes[6], lanes[7]};
  const Two two = Two{four[0], four[1]} + Two{four[2], four[3]};
  return two[0] + two[1];
}

// Sum the K values of term(d) over d = 0 .. size-1 in COUNT interleaved sums each; to be inlined
// into a cloned function.
template <size_t K, int64_t COUNT = LANES, typename F>
[[gnu::always_inline]] inline std::array<double, K> lane_sums(const int64_t size, F&& term) {
  double lanes[K][COUNT] = {};
  const int64_t whole = size - size % COUNT;
  for (int64_t d = 0; d < whole; d += COUNT)
    for (int64_t l = 0; l < COUNT; ++l) {
      const std::array<double, K> terms = term(d + l);
      for (size_t k = 0; k < K; ++k) lanes[k][l] += terms[k];
    }
  if (whole < size) {
    double tail[K][COUNT] = {};  // apart, so that the lanes, of fixed places, stay in registers
    for (int64_t d = whole; d < size; ++d) {
      const std::array<double, K> terms = term(d);
      for (size_t k = 0; k < K; ++k) tail[k][d - whole] = terms[k];
    }
    for (size_t k = 0; k < K; ++k)
      for (int64_t l = 0; l < COUNT; ++l) lanes[k][l] += tail[k][l];
  }
  std::array<double, K> sums;
  for (size_t k = 0; k < K; ++k) sums[k] = fold<COUNT>(lanes[k]);
  return sums;
}

// The same of one value.
template <typename F>
[[gnu::always_inline]] inline double lane_sum(const int64_t size, F&& term) {
  return lane_sums<1>(size, [&](const int64_t d) __attribute__((always_inline)) {
    return std::array<double, 1>{term(d)};
  })[0];
}

// The sum of squares of g.
template <typename T>
JACFAST_CLONES static double sumsq(const T* g, const int64_t size) {
  return lane_sum(size, [g](const int64_t d) {
    const double v = wide(g[d]);
    return v * v;
  });
}

}  // namespace jacfast::cpu
