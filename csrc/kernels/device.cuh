// Device code that every kernel shares: element types, 16-byte packs, reductions; sums: sums.cuh.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cstdint>
#include <cstring>
#include <type_traits>

#include "../split.h"

// Threads per block at most, for every kernel and launcher. The emulator tries others.
#ifndef JACFAST_MAX_THREADS
#define JACFAST_MAX_THREADS 512
#endif

namespace jacfast::cuda {

// The type of differences and results: float for half types, else T.
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
template <int VEC, typename T>
__device__ inline void store(T* to, const Pack<T, VEC>& pack) {
  if constexpr (sizeof(pack) == 16) {
    if (reinterpret_cast<uintptr_t>(to) % 16 == 0) {
      uint4 word;
      memcpy(&word, &pack, 16);
      __stwb(reinterpret_cast<uint4*>(to), word);  // by name: the compiler splits an assignment
      return;
    }
  }
#pragma unroll
  for (int e = 0; e < VEC; ++e) to[e] = pack.at[e];  // read on boundaries, written beside them
}

// A team is the blockDim.x threads that share an item (a row, a part of a row, a sample). A block
// is one team, or, where a warp is enough for an item, blockDim.y teams of one warp each.
__device__ inline int64_t item() { return int64_t{blockIdx.x} * blockDim.y + threadIdx.y; }
__device__ inline bool one_warp() { return blockDim.x == 32; }
__device__ inline void team_sync() { one_warp() ? __syncwarp() : __syncthreads(); }

// Give this thread its share of row[begin .. end - 1]: entries up to the next 16-byte boundary one
// by one, then whole packs, then the entries left over. Consecutive threads take consecutive packs.
// Each is use(d, read(d, size), size) with the pack's size; a thread reads UNROLL packs before it
// uses the first, so that their loads are in flight together.
template <int VEC, int UNROLL, typename T, typename Read, typename Use>
__device__ inline void for_packs(const T* row, const int64_t begin, const int64_t end, Read&& read,
                                 Use&& use) {
  constexpr std::integral_constant<int, 1> one;
  constexpr std::integral_constant<int, VEC> pack;
  const int64_t past = reinterpret_cast<uintptr_t>(row + begin) / sizeof(T) % VEC;
  const int64_t boundary = begin + (VEC - past) % VEC;
  const int64_t head = boundary < end ? boundary : end;
  const int64_t whole = head + (end - head) / VEC * VEC;
  for (int64_t d = begin + threadIdx.x; d < head; d += blockDim.x) use(d, read(d, one), one);
  const int64_t stride = int64_t{blockDim.x} * VEC;
  int64_t d = head + threadIdx.x * VEC;
  for (; d + (UNROLL - 1) * stride < whole; d += UNROLL * stride) {
    decltype(read(d, pack)) packs[UNROLL];
#pragma unroll
    for (int u = 0; u < UNROLL; ++u) packs[u] = read(d + u * stride, pack);
#pragma unroll
    for (int u = 0; u < UNROLL; ++u) use(d + u * stride, packs[u], pack);
  }
  for (; d < whole; d += stride) use(d, read(d, pack), pack);
  for (int64_t last = whole + threadIdx.x; last < end; last += blockDim.x)
    use(last, read(last, one), one);
}

// A reduction of one value per thread over the team; every thread gets the result. The order is
// fixed, so the bits are the same each run. All threads of the team must call it.
template <typename T, typename Join>
__device__ inline T team_reduce(T value, const Join join) {
  for (int lanes = 16; lanes > 0; lanes /= 2) value = join(value, value.from_lane(lanes));
  if (one_warp()) return value;
  __shared__ T slots[32];
  __syncthreads();  // the slots of the call before may still be being read
  if (threadIdx.x % 32 == 0) slots[threadIdx.x / 32] = value;
  __syncthreads();
  value = slots[0];
  for (unsigned warp = 1; warp < blockDim.x / 32; ++warp) value = join(value, slots[warp]);
  return value;
}

template <typename T>
__device__ inline T lane_xor(const T value, const int lanes) {
  return __shfl_xor_sync(0xffffffffu, value, lanes);
}

// The block's dynamic shared memory.
__device__ inline void* dynamic_shared() {
#ifdef JACFAST_DYNAMIC_SHARED  // the emulator's
  return JACFAST_DYNAMIC_SHARED;
#else
  extern __shared__ double words[];
  return words;
#endif
}

}  // namespace jacfast::cuda
