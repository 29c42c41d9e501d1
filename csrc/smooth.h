// First and second derivatives of smooth activations, for the twins on the CPU and the GPU:
// formulas over a `Math`, which has the functions that each of them computes in its own way.
//
// Each is written in w = exp(-|x|) or the like, which cannot overflow, so that the limits at
// infinity come out as numbers; a NaN stays one. What a kind is: jacfast/ops/activation.py.
#pragma once

#include <math.h>  // overloads that a GPU has, too

#include <type_traits>

#ifdef __CUDACC__
#define JACFAST_INLINE __device__ __forceinline__
#else
#define JACFAST_INLINE [[gnu::always_inline]] inline
#endif

namespace jacfast {

enum class Smooth { gelu, gelu_tanh, silu, softplus, sigmoid, tanh, elu, mish, hardswish };

// The numbers that a kind takes: beta and threshold of softplus; alpha, scale and input_scale of
// elu.
template <typename A>
struct SmoothParameters {
  A first, second, third;
};

template <typename A>
struct Derivatives {
  A slope, bend;  // f'(x), f''(x)
};

// x, or the nearer of -limit and limit, beyond which exponentials are 0.
template <typename A>
JACFAST_INLINE A within(const A x, const A limit) {
  const A low = x < -limit ? -limit : x;
  return low > limit ? limit : low;
}

// The logistic function s of z, and its derivatives s (1 - s), s (1 - s) (1 - 2 s).
template <typename A>
struct Logistic {
  A value, slope, bend;
};
template <typename Math, typename A>
JACFAST_INLINE Logistic<A> logistic(const A z) {
  const A w = Math::exp(-fabs(z)), r = 1 / (1 + w);
  const A slope = w * r * r, fall = (1 - w) * r;
  return {(z < 0 ? w : A(1)) * r, slope, slope * (z < 0 ? fall : -fall)};
}

// x Phi(x): Phi + x phi, (2 - x^2) phi.
template <typename Math, typename A>
JACFAST_INLINE Derivatives<A> gelu(const A given) {
  const A x = within(given, A(40)), a = fabs(x);
  const A w = Math::exp(A(-0.5) * x * x), tail = Math::normal_tail(a, w);
  const A density = A(0.39894228040143267794) * w;
  return {(x < 0 ? tail : 1 - tail) + x * density, (2 - x * x) * density};
}

// x s(u), u = 2 sqrt(2 / pi) (x + 0.044715 x^3).
template <typename Math, typename A>
JACFAST_INLINE Derivatives<A> gelu_tanh(const A given) {
  const A x = within(given, A(30)), square = x * x;
  const A c = A(1.5957691216057307117), cubic = A(0.044715);
  const auto s = logistic<Math>(c * x * (1 + cubic * square));
  const A u1 = c * (1 + 3 * cubic * square), u2 = c * 6 * cubic * x;
  return {s.value + x * s.slope * u1, 2 * s.slope * u1 + x * (s.bend * u1 * u1 + s.slope * u2)};
}

// x s(x).
template <typename Math, typename A>
JACFAST_INLINE Derivatives<A> silu(const A given) {
  const A x = within(given, A(800));
  const auto s = logistic<Math>(x);
  return {s.value + x * s.slope, 2 * s.slope + x * s.bend};
}

// log(1 + exp(beta x)) / beta, and x where beta x is over the threshold.
template <typename Math, typename A>
JACFAST_INLINE Derivatives<A> softplus(const A x, const SmoothParameters<A> p) {
  const A z = p.first * x;
  const auto s = logistic<Math>(z);
  return {z > p.second ? A(1) : s.value, z >= p.second ? A(0) : p.first * s.slope};
}

// Where x <= 0, alpha scale (exp(input_scale x) - 1); else scale x.
template <typename Math, typename A>
JACFAST_INLINE Derivatives<A> elu(const A x, const SmoothParameters<A> p) {
  const A z = p.third * (x > 0 ? A(0) : x);
  const A slope = p.first * p.second * p.third * Math::exp(z);
  return {x > 0 ? p.second : slope, x >= 0 ? A(0) : p.third * slope};
}

// x t, t = tanh(log(1 + e)), e = exp(x). With n = e^2 + 2 e and d = n + 2, t = n / d,
// t' = 4 e (e + 1) / d^2 and t'' = 4 e (2 + 2 e - 3 e^2 - 2 e^3) / d^3; for x > 0, in w = 1 / e.
template <typename Math, typename A>
JACFAST_INLINE Derivatives<A> mish(const A given) {
  const A x = within(given, A(800)), w = Math::exp(-fabs(x)), square = w * w;
  const bool up = x > 0;
  const A n = up ? 1 + 2 * w : square + 2 * w, d = n + (up ? 2 * square : A(2)), r = 1 / d;
  const A rate = 4 * (up ? square : w) * r * r, cube = square * w;
  const A bend =
      rate * r * (up ? 2 * cube + 2 * square - 3 * w - 2 : 2 + 2 * w - 3 * square - 2 * cube);
  return {n * r + x * rate * (1 + w), 2 * rate * (1 + w) + x * bend};
}

// x min(max(x + 3, 0), 6) / 6.
template <typename A>
JACFAST_INLINE Derivatives<A> hardswish(const A x) {
  const bool outside = (x <= -3) | (x >= 3);
  const A flat = x < 0 ? A(0) : A(1), third = A(1) / 3;
  return {outside ? flat : x * third + A(0.5), outside ? A(0) : x == x ? third : x};
}

// The derivatives at x; of sigmoid and tanh, at the output x, the slope and the derivative of that
// in the output.
template <Smooth KIND, typename Math, typename A>
JACFAST_INLINE Derivatives<A> derivatives(const A x, const SmoothParameters<A> p) {
  if constexpr (KIND == Smooth::gelu) return gelu<Math>(x);
  if constexpr (KIND == Smooth::gelu_tanh) return gelu_tanh<Math>(x);
  if constexpr (KIND == Smooth::silu) return silu<Math>(x);
  if constexpr (KIND == Smooth::softplus) return softplus<Math>(x, p);
  if constexpr (KIND == Smooth::sigmoid) return {x * (1 - x), 1 - 2 * x};
  if constexpr (KIND == Smooth::tanh) return {1 - x * x, -2 * x};
  if constexpr (KIND == Smooth::elu) return elu<Math>(x, p);
  if constexpr (KIND == Smooth::mish) return mish<Math>(x);
  if constexpr (KIND == Smooth::hardswish) return hardswish(x);
}

// Call body(std::integral_constant<Smooth, KIND>{}).
template <typename F>
JACFAST_INLINE void with_kind(const Smooth kind, F&& body) {
  switch (kind) {
    case Smooth::gelu: return body(std::integral_constant<Smooth, Smooth::gelu>{});
    case Smooth::gelu_tanh: return body(std::integral_constant<Smooth, Smooth::gelu_tanh>{});
    case Smooth::silu: return body(std::integral_constant<Smooth, Smooth::silu>{});
    case Smooth::softplus: return body(std::integral_constant<Smooth, Smooth::softplus>{});
    case Smooth::sigmoid: return body(std::integral_constant<Smooth, Smooth::sigmoid>{});
    case Smooth::tanh: return body(std::integral_constant<Smooth, Smooth::tanh>{});
    case Smooth::elu: return body(std::integral_constant<Smooth, Smooth::elu>{});
    case Smooth::mish: return body(std::integral_constant<Smooth, Smooth::mish>{});
    case Smooth::hardswish: return body(std::integral_constant<Smooth, Smooth::hardswish>{});
  }
}

}  // namespace jacfast
