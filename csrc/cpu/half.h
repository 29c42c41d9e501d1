// The half-precision types of the CPU twins: conversions from and to float, rounding to nearest and
// ties to even.
#pragma once

#include <bit>
#include <cstdint>

namespace jacfast::cpu {

struct BFloat16 {
  uint16_t bits;
  operator float() const { return std::bit_cast<float>(uint32_t{bits} << 16); }
  BFloat16() = default;
  explicit BFloat16(const float value) {  // NaN stays NaN
    const auto word = std::bit_cast<uint32_t>(value);
    const bool nan = (word & 0x7fffffffu) > 0x7f800000u;
    bits = nan ? 0x7fc0u : static_cast<uint16_t>((word + 0x7fffu + ((word >> 16) & 1u)) >> 16);
  }
};

// Float16 where the compiler has none. No step of it sees a float below the normal ones, which a
// processor may have been told to take for zero.
struct Float16 {
  uint16_t bits;
  operator float() const {
    const uint32_t sign = (bits & 0x8000u) << 16, size = bits & 0x7fffu;
    const bool normal = size >= 0x0400u, finite = size < 0x7c00u;
    const uint32_t bias = finite ? 127 - 15 : 255 - 31;  // of the exponents
    const auto word = normal ? (size << 13) + (bias << 23)
                             : std::bit_cast<uint32_t>(static_cast<float>(size) * 0x1p-24f);
    return std::bit_cast<float>(sign | word);
  }
  Float16() = default;
  explicit Float16(const float value) {
    const auto word = std::bit_cast<uint32_t>(value);
    const uint32_t sign = word >> 16 & 0x8000u, size = word & 0x7fffffffu;
    uint32_t half;
    if (size > 0x7f800000u)
      half = 0x7e00u;  // NaN
    else if (size >= 0x47800000u)
      half = 0x7c00u;  // 2^16 and more: infinity
    else if (size >= 0x38800000u)
      half = (size - (uint32_t{127 - 15} << 23) + 0x0fffu + (size >> 13 & 1u)) >> 13;
    else  // below 2^-14: beside 1/2 what is left of it are multiples of 2^-24
      half = std::bit_cast<uint32_t>(std::bit_cast<float>(size) + 0.5f) - 0x3f000000u;
    bits = static_cast<uint16_t>(sign | half);
  }
};

#ifdef JACFAST_FLOAT16  // the compiler has one: csrc/probe/float16.cpp
using Half = _Float16;
#else
using Half = Float16;
#endif

}  // namespace jacfast::cpu
