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

// `yes` where it holds, else `no`, without a branch.
inline uint32_t chosen(const bool holds, const uint32_t yes, const uint32_t no) {
  const uint32_t mask = -uint32_t{holds};
  return (yes & mask) | (no & ~mask);
}

// No step of it sees a float below the normal ones, which a processor may have been told to take
// for zero. All cases are computed and one is chosen, so that loops over it become vectors: with
// the compiler's own type g++ 12 calls a function for each entry.
struct Half {
  uint16_t bits;
  operator float() const {
    const uint32_t sign = (bits & 0x8000u) << 16, size = bits & 0x7fffu;
    const uint32_t bias = size < 0x7c00u ? 127 - 15 : 255 - 31;  // of the exponents
    const uint32_t normal = (size << 13) + (bias << 23);
    const float small = static_cast<float>(static_cast<int32_t>(size)) * 0x1p-24f;
    return std::bit_cast<float>(sign |
                                chosen(size < 0x0400u, std::bit_cast<uint32_t>(small), normal));
  }
  Half() = default;
  explicit Half(const float value) {
    const auto word = std::bit_cast<uint32_t>(value);
    const uint32_t sign = word >> 16 & 0x8000u, size = word & 0x7fffffffu;
    // 2^16 and more: infinity; a NaN stays one
    const uint32_t large = chosen(size > 0x7f800000u, 0x7e00u, 0x7c00u);
    const uint32_t normal = (size - (uint32_t{127 - 15} << 23) + 0x0fffu + (size >> 13 & 1u)) >> 13;
    // below 2^-14: beside 1/2 what is left of it are multiples of 2^-24
    const uint32_t small = std::bit_cast<uint32_t>(std::bit_cast<float>(size) + 0.5f) - 0x3f000000u;
    const uint32_t finite = chosen(size < 0x38800000u, small, normal);
    bits = static_cast<uint16_t>(sign | chosen(size < 0x47800000u, finite, large));
  }
};

}  // namespace jacfast::cpu
