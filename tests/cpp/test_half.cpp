// The half-precision types against the definition of their formats: every value, and the numbers
// around the middle to the next one.
#include <bit>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <initializer_list>
#include <limits>

#include "cpu/half.h"

namespace {

using namespace jacfast::cpu;

// What `bits` stand for, sign left out; beyond the largest, as if the exponents went on.
double value_of(const uint32_t bits, const int mantissa) {
  const int bias = (1 << (14 - mantissa)) - 1, exponent = static_cast<int>(bits >> mantissa);
  const double fraction = std::ldexp(bits & ((1u << mantissa) - 1), -mantissa);
  return exponent > 0 ? std::ldexp(1 + fraction, exponent - bias) : std::ldexp(fraction, 1 - bias);
}

void expect(const bool holds, const char* what, const uint32_t bits) {
  if (holds) return;
  std::printf("FAILED %s near %#06x\n", what, bits);
  std::exit(1);
}

template <typename H>
uint32_t rounded(const double value) {
  return std::bit_cast<uint16_t>(static_cast<H>(static_cast<float>(value)));
}

template <typename H>
float widened(const uint32_t bits) {
  return static_cast<float>(std::bit_cast<H>(static_cast<uint16_t>(bits)));
}

template <typename H>
void test(const int mantissa, const char* name) {
  const uint32_t infinity = 0x7fffu >> mantissa << mantissa;
  const float large = std::numeric_limits<float>::infinity();
  for (const uint32_t sign : {0u, 0x8000u}) {
    const float one = sign ? -1.0f : 1.0f;
    for (uint32_t bits = 0; bits < infinity; ++bits) {
      const double value = value_of(bits, mantissa);
      const auto middle = static_cast<float>((value + value_of(bits + 1, mantissa)) / 2);
      expect(widened<H>(sign | bits) == one * value, name, bits);
      expect(rounded<H>(one * value) == (sign | bits), name, bits);
      expect(rounded<H>(one * std::nextafter(middle, 0.0f)) == (sign | bits), name, bits);
      expect(rounded<H>(one * middle) == (sign | (bits + bits % 2)), name, bits);
      expect(rounded<H>(one * std::nextafter(middle, large)) == (sign | (bits + 1)), name, bits);
    }
    expect(widened<H>(sign | infinity) == one * large, name, infinity);
    expect(rounded<H>(one * large) == (sign | infinity), name, infinity);
    expect(rounded<H>(one * std::numeric_limits<float>::max()) == (sign | infinity), name,
           infinity);
    for (uint32_t bits = infinity + 1; bits < 0x8000u; ++bits)
      expect(std::isnan(widened<H>(sign | bits)), name, bits);
    const float nan = std::copysign(std::numeric_limits<float>::quiet_NaN(), one);
    expect(std::isnan(widened<H>(rounded<H>(nan))), name, infinity);
    const auto least = std::bit_cast<float>(0x7f800001u);  // of the NaN, in the last bit only
    expect((std::bit_cast<uint16_t>(static_cast<H>(least)) & 0x7fffu) > infinity, name, infinity);
  }
}

}  // namespace

int main() {
  test<BFloat16>(7, "bfloat16");
  test<Half>(10, "float16");
  std::puts("half types convert as their formats say");
}
