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

// By halves, so always in the same order.
[[gnu::always_inline]] inline double fold(double* lanes) {
  for (int64_t half = LANES / 2; half > 0; half /= 2)
    for (int64_t l = 0; l < half; ++l) lanes[l] += lanes[l + half];
  return lanes[0];
}

// Sum the K values of term(d) over d = 0 .. size-1 in LANES interleaved sums each; to be inlined
// into a cloned function.
template <size_t K, typename F>
[[gnu::always_inline]] inline std::array<double, K> lane_sums(const int64_t size, F&& term) {
  double lanes[K][LANES] = {};
  const int64_t whole = size - size % LANES;
  for (int64_t d = 0; d < whole; d += LANES)
    for (int64_t l = 0; l < LANES; ++l) {
      const std::array<double, K> terms = term(d + l);
      for (size_t k = 0; k < K; ++k) lanes[k][l] += terms[k];
    }
  for (int64_t d = whole; d < size; ++d) {
    const std::array<double, K> terms = term(d);
    for (size_t k = 0; k < K; ++k) lanes[k][d - whole] += terms[k];
  }
  std::array<double, K> sums;
  for (size_t k = 0; k < K; ++k) sums[k] = fold(lanes[k]);
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
