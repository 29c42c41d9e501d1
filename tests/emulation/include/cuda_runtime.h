// In place of CUDA's header of this name: kernels and launchers compile as C++ and run in the
// emulator. Types come from CUDA's own headers; what is defined here is the device's vocabulary.
#pragma once

#include <cuda_runtime_api.h>
#include <vector_functions.h>

#include <math.h>

#include <bit>
#include <cstring>
#include <functional>
#include <string>
#include <type_traits>

#include "../emulator.h"

#undef __shared__
#undef __launch_bounds__
#define __launch_bounds__(...)
#ifdef JACFAST_RACES  // a report names the kernel's line, through whatever functions it went
#undef __global__
#define __global__ __attribute__((flatten))
#endif
// One block runs at a time, so shared memory may be static. As thread_local it can be found and
// poisoned; AddressSanitizer watches the bounds of plain statics only.
#ifdef __SANITIZE_ADDRESS__
#define __shared__ static
#else
#define __shared__ thread_local
#endif
#define JACFAST_DYNAMIC_SHARED emulation::dynamic_shared()
#define JACFAST_MAX_THREADS emulation::max_threads()
#define JACFAST_MAX_ENTRIES 4096

inline uint3 threadIdx, blockIdx;
inline dim3 blockDim, gridDim;

template <typename... Parameters, typename... Arguments>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t* config, void (*kernel)(Parameters...),
                               const Arguments&... arguments) {
  const dim3 grid = config->gridDim, block = config->blockDim;
  // What CUDA accepts of kernels that are bounded to 512 threads and have 1 KiB of static shared
  // memory: neither is known here.
  const uint64_t threads = uint64_t{block.x} * block.y * block.z;
  const bool fits = grid.x > 0 && grid.x < 1u << 31 && grid.y > 0 && grid.y < 1u << 16 &&
                    grid.z > 0 && grid.z < 1u << 16 && threads > 0 && threads <= 512 &&
                    block.z <= 64 && config->dynamicSmemBytes <= 47 * 1024;
  if (!fits) return cudaErrorInvalidConfiguration;
  emulation::run(grid, block, config->dynamicSmemBytes,
                 [&] { kernel(static_cast<Parameters>(arguments)...); });
  return cudaSuccess;
}

// Barriers.
inline void __syncthreads(emulation::Place place = emulation::Place::current()) {
  emulation::block_barrier(place);
}
inline void __syncwarp(unsigned mask = ~0u, emulation::Place place = emulation::Place::current()) {
  emulation::warp_exchange(emulation::BARRIER, mask, 0, place);
}
inline void __threadfence() { emulation::races::fence(); }

namespace emulation {

template <typename T>
uint64_t to_bits(const T value) {
  static_assert(std::is_arithmetic_v<T> && (sizeof(T) == 4 || sizeof(T) == 8));
  uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof(T));
  return bits;
}
template <typename T>
T from_bits(const uint64_t bits) {
  T value;
  std::memcpy(&value, &bits, sizeof(T));
  return value;
}

// The value of lane `source`, or one's own where it lies outside the segment of `width` lanes.
template <typename T>
T shuffle(const unsigned mask, const T value, const int source, const int width, const bool inside,
          const Place& place) {
  if (width < 1 || width > 32 || !std::has_single_bit(static_cast<unsigned>(width)))
    fail("a shuffle whose width is no power of two up to 32");
  const Lanes& lanes = warp_exchange("a shuffle", mask, to_bits(value), place);
  const int from = inside ? source : static_cast<int>(lane());
  if (!(mask >> from & 1)) fail("a shuffle from a lane that its mask leaves out");
  return from_bits<T>(lanes.values[from]);
}

// join over what the lanes of `mask` hand in.
template <typename T, typename Join>
T reduce(const unsigned mask, const T value, const Join join, const Place& place) {
  const Lanes& lanes = warp_exchange("a vote or reduction", mask, to_bits(value), place);
  T result = value;
  for (unsigned l = 0; l < 32; ++l)
    if (mask >> l & 1 && l != lane()) result = join(result, from_bits<T>(lanes.values[l]));
  return result;
}

}  // namespace emulation

#define EMULATION_PLACE emulation::Place place = emulation::Place::current()

// Shuffles.
template <typename T>
T __shfl_sync(unsigned mask, T value, int source, int width = 32, EMULATION_PLACE) {
  const int first = static_cast<int>(emulation::lane()) & ~(width - 1);
  return emulation::shuffle(mask, value, first + (source & (width - 1)), width, true, place);
}
template <typename T>
T __shfl_xor_sync(unsigned mask, T value, int lanes, int width = 32, EMULATION_PLACE) {
  const int own = static_cast<int>(emulation::lane()), from = own ^ lanes;
  const bool inside = from < (own & ~(width - 1)) + width;
  return emulation::shuffle(mask, value, from, width, inside, place);
}
template <typename T>
T __shfl_down_sync(unsigned mask, T value, unsigned lanes, int width = 32, EMULATION_PLACE) {
  const int own = static_cast<int>(emulation::lane()), from = own + static_cast<int>(lanes);
  const bool inside = from < (own & ~(width - 1)) + width;
  return emulation::shuffle(mask, value, from, width, inside, place);
}
template <typename T>
T __shfl_up_sync(unsigned mask, T value, unsigned lanes, int width = 32, EMULATION_PLACE) {
  const int own = static_cast<int>(emulation::lane()), from = own - static_cast<int>(lanes);
  const bool inside = from >= (own & ~(width - 1));
  return emulation::shuffle(mask, value, from, width, inside, place);
}

// Votes and reductions over the lanes of a mask.
inline unsigned __ballot_sync(unsigned mask, int predicate, EMULATION_PLACE) {
  const unsigned bit = predicate ? 1u << emulation::lane() : 0;
  return emulation::reduce(mask, bit, std::bit_or<unsigned>(), place);
}
inline int __any_sync(unsigned mask, int predicate, EMULATION_PLACE) {
  return __ballot_sync(mask, predicate, place) != 0;
}
inline int __all_sync(unsigned mask, int predicate, EMULATION_PLACE) {
  return __ballot_sync(mask, predicate, place) == mask;
}
template <typename T>
T __reduce_add_sync(unsigned mask, T value, EMULATION_PLACE) {
  return emulation::reduce(mask, value, std::plus<T>(), place);
}
template <typename T>
T __reduce_min_sync(unsigned mask, T value, EMULATION_PLACE) {
  return emulation::reduce(mask, value, [](T a, T b) { return b < a ? b : a; }, place);
}
template <typename T>
T __reduce_max_sync(unsigned mask, T value, EMULATION_PLACE) {
  return emulation::reduce(mask, value, [](T a, T b) { return a < b ? b : a; }, place);
}

// Atomics: one fiber runs at a time, so plain reads and writes are. Inline, so that the race
// detector sees the line that they are called at.
#define EMULATION_ATOMIC inline __attribute__((always_inline))
template <typename T, typename F>
EMULATION_ATOMIC T emulated_atomic(T* address, F&& next) {
  const emulation::races::Atomic one(address, sizeof(T));
  const T old = *address;
  *address = next(old);
  return old;
}
template <typename T>
EMULATION_ATOMIC T atomicAdd(T* address, std::type_identity_t<T> value) {
  return emulated_atomic(address, [&](T old) { return old + value; });
}
template <typename T>
EMULATION_ATOMIC T atomicMin(T* address, std::type_identity_t<T> value) {
  return emulated_atomic(address, [&](T old) { return value < old ? value : old; });
}
template <typename T>
EMULATION_ATOMIC T atomicMax(T* address, std::type_identity_t<T> value) {
  return emulated_atomic(address, [&](T old) { return old < value ? value : old; });
}
template <typename T>
EMULATION_ATOMIC T atomicExch(T* address, std::type_identity_t<T> value) {
  return emulated_atomic(address, [&](T) { return value; });
}
template <typename T>
EMULATION_ATOMIC T atomicCAS(T* address, std::type_identity_t<T> expected,
                             std::type_identity_t<T> value) {
  return emulated_atomic(address, [&](T old) { return old == expected ? value : old; });
}

// Arithmetic that no compiler joins or rearranges.
inline float __fadd_rn(const float a, const float b) {
  const volatile float sum = a + b;
  return sum;
}
inline float __fsub_rn(const float a, const float b) {
  const volatile float difference = a - b;
  return difference;
}
inline float __fmul_rn(const float a, const float b) {
  const volatile float product = a * b;
  return product;
}
inline float __fmaf_rn(const float a, const float b, const float c) { return fmaf(a, b, c); }

// Bits.
inline double __longlong_as_double(const long long bits) { return std::bit_cast<double>(bits); }
inline long long __double_as_longlong(const double value) {
  return std::bit_cast<long long>(value);
}
inline float __int_as_float(const int bits) { return std::bit_cast<float>(bits); }
inline int __float_as_int(const float value) { return std::bit_cast<int>(value); }

// Loads and stores by name.
template <typename T>
T __ldg(const T* address) {
  return *address;
}
template <typename T>
void __stwb(T* address, const T value) {
  *address = value;
}
