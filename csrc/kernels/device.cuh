// Device code that every kernel shares: element types, 16-byte packs, reductions.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cstdint>
#include <type_traits>

#include "../split.h"

namespace jacfast::cuda {

// The type of differences and results: float for half types, else T. Sums are always double: a
// memory-bound kernel has the time, and squares of small float32 gradients would underflow.
template <typename T>
struct AccOf {
  using type = float;
};
template <>
struct AccOf<double> {
  using type = double;
};
template <typename T>
using Acc = typename AccOf<T>::type;

// To and from that type, by name: PyTorch's build flags take the implicit conversions away.
__device__ inline float wide(const float value) { return value; }
__device__ inline double wide(const double value) { return value; }
__device__ inline float wide(const __half value) { return __half2float(value); }
__device__ inline float wide(const __nv_bfloat16 value) { return __bfloat162float(value); }

__device__ inline void narrow(const float value, float& to) { to = value; }
__device__ inline void narrow(const double value, double& to) { to = value; }
__device__ inline void narrow(const float value, __half& to) { to = __float2half_rn(value); }
__device__ inline void narrow(const float value, __nv_bfloat16& to) {
  to = __float2bfloat16_rn(value);
}

// VEC entries, loaded and stored as one word of up to 16 bytes.
template <typename T, int VEC>
struct alignas(VEC * sizeof(T)) Pack {
  T at[VEC];
};
template <int VEC, typename T>
__device__ inline Pack<T, VEC> load(const T* from) {
  return *reinterpret_cast<const Pack<T, VEC>*>(from);
}

// Give this thread its share of begin .. end - 1: whole packs by body(d, pack size), then the
// entries left over one by one. Consecutive threads take consecutive packs.
template <int VEC, typename F>
__device__ inline void for_packs(const int64_t begin, const int64_t end, F&& body) {
  const int64_t whole = begin + (end - begin) / VEC * VEC;
#pragma unroll 2
  for (int64_t d = begin + threadIdx.x * VEC; d < whole; d += blockDim.x * VEC)
    body(d, std::integral_constant<int, VEC>());
  for (int64_t d = whole + threadIdx.x; d < end; d += blockDim.x)
    body(d, std::integral_constant<int, 1>());
}

// A reduction of one value per thread over the block; every thread gets the result. The order is
// fixed, so the bits are the same each run. All threads of the block must call it.
template <typename T, typename Join>
__device__ inline T block_reduce(T value, const Join join) {
  for (int lanes = 16; lanes > 0; lanes /= 2) value = join(value, value.from_lane(lanes));
  const int warps = static_cast<int>(blockDim.x) / 32;
  if (warps == 1) return value;
  __shared__ T slots[32];
  __syncthreads();  // the slots of the call before may still be being read
  if (threadIdx.x % 32 == 0) slots[threadIdx.x / 32] = value;
  __syncthreads();
  value = slots[0];
  for (int warp = 1; warp < warps; ++warp) value = join(value, slots[warp]);
  return value;
}

template <typename T>
__device__ inline T lane_xor(const T value, const int lanes) {
  return __shfl_xor_sync(0xffffffffu, value, lanes);
}

struct Sum {
  double value;
  __device__ Sum from_lane(const int lanes) const { return {lane_xor(value, lanes)}; }
};

__device__ inline double block_sum(const double value) {
  return block_reduce(Sum{value}, [](const Sum a, const Sum b) { return Sum{a.value + b.value}; })
      .value;
}

// The sum of term(entry) over part of a row, for every thread of the block.
template <int VEC, typename T, typename F>
__device__ inline double sum_part(const T* row, const Span part, const F term) {
  double sum = 0;
  for_packs<VEC>(part.begin, part.end, [&](const int64_t d, auto pack) {
    const auto entries = load<pack.value>(row + d);
#pragma unroll
    for (int e = 0; e < pack.value; ++e) sum += term(static_cast<double>(wide(entries.at[e])));
  });
  return block_sum(sum);
}

__device__ inline double squared(const double v) { return v * v; }

}  // namespace jacfast::cuda
