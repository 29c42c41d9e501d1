// Exponentials that compilers vectorise: no branch, no table, no call.
//
// Polynomials: interpolation at Chebyshev's nodes, computed with 40 digits; each relative error is
// below half an ulp. tests/ops/test_activation_rounding.py measures what is left of it.
#pragma once

#include <bit>
#include <cstdint>

namespace jacfast::cpu {

// c[FROM] + c[FROM + 1] x + ...: by recursion, as a loop of so many steps need not be unrolled.
template <int FROM = 0, typename A, int COUNT>
[[gnu::always_inline]] inline A polynomial(const A (&c)[COUNT], const A x) {
  if constexpr (FROM + 1 == COUNT)
    return c[FROM];
  else
    return c[FROM] + x * polynomial<FROM + 1>(c, x);
}

// exp(x) = 2^n exp(x - n log 2) for x <= 0; 0 where that is below the smallest normal number.
[[gnu::always_inline]] inline float exp_down(const float x) {
  constexpr float C[] = {1.f,           1.f, 0.5f, 0.166664153f, 0.0416663513f, 0.00837512594f,
                         0.00139411085f};
  constexpr float ROUND = 0x1.8p23f;  // what is added to it becomes an integer, in its last bits
  const float inside = x < -87.f ? -87.f : x;
  const float shifted = inside * 1.44269504f + ROUND, n = shifted - ROUND;
  const float rest = inside - n * 0.69140625f - n * 0.00174093056f;
  const uint32_t power = (std::bit_cast<uint32_t>(shifted) + 127u) << 23;
  return x < -87.f ? 0.f : polynomial(C, rest) * std::bit_cast<float>(power);
}
[[gnu::always_inline]] inline double exp_down(const double x) {
  constexpr double C[] = {1,
                          1,
                          0.50000000000000189,
                          0.1666666666666668,
                          0.041666666666488099,
                          0.0083333333333196011,
                          0.0013888888952314775,
                          0.00019841269890047113,
                          2.4801485482328494e-05,
                          2.755724091857897e-06,
                          2.7632639639041029e-07,
                          2.5110037605963777e-08};
  constexpr double ROUND = 0x1.8p52;
  const double inside = x < -708. ? -708. : x;
  const double shifted = inside * 1.4426950408889634 + ROUND, n = shifted - ROUND;
  const double rest = inside - n * 0x1.62e42fee00000p-1 - n * 0x1.a39ef35793c76p-33;
  const uint64_t power = (std::bit_cast<uint64_t>(shifted) + 1023u) << 52;
  return x < -708. ? 0. : polynomial(C, rest) * std::bit_cast<double>(power);
}

// P(X > a) of a standard normal X, for a >= 0, of w = exp(-a^2 / 2): w r p((a - 4) r),
// r = 1 / (a + 4).
[[gnu::always_inline]] inline float normal_tail(const float a, const float w) {
  constexpr float C[] = {0.755285144f,    -0.607896626f,   0.387137383f,     -0.186521992f,
                         0.0603966452f,   -0.00753868883f, -0.00347994291f,  0.00162424764f,
                         0.000133640424f, -0.00021777107f, -1.72599232e-06f, 2.19790436e-05f};
  const float r = 1 / (a + 4);
  return w * r * polynomial(C, (a - 4) * r);
}
[[gnu::always_inline]] inline double normal_tail(const double a, const double w) {
  constexpr double C[] = {0.75528513041575152,     -0.6078966419718923,     0.38713740074221453,
                          -0.18652185795963533,    0.060396574890936069,    -0.0075401889674195652,
                          -0.0034796923673884156,  0.0016308184678064444,   0.00013334431270030784,
                          -0.00023109501999200649, -1.9082650853426789e-06, 3.5145122560125815e-05,
                          7.1672639787050158e-07,  -5.9216388019788167e-06, -6.2999742651642221e-07,
                          1.0248325060946323e-06,  2.7271760832623853e-07,  -1.5982676610438677e-07,
                          -8.7132946214674908e-08, 1.7881872409503415e-08,  2.1604426842720404e-08,
                          -6.0210037279514763e-10, -3.7980418599574493e-09, -1.1742107539247065e-10,
                          3.5156924266809302e-10};
  const double r = 1 / (a + 4);
  return w * r * polynomial(C, (a - 4) * r);
}

}  // namespace jacfast::cpu
