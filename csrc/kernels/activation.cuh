// activation_first and activation_second on the GPU: a thread takes a pack. Floor of each: what is
// read and written, once.
#pragma once

#include "../ops/activation.h"
#include "device.cuh"

namespace jacfast::cuda {

struct Math {
  template <typename A>
  static __device__ A exp(const A x) {
    return ::exp(x);
  }
  template <typename A>
  static __device__ A normal_tail(const A a, A) {
    return A(0.5) * ::erfc(A(0.70710678118654752440) * a);
  }
};

// The number of this thread: blocks are one team, and cover the packs in order.
__device__ inline int64_t thread_number() { return item() * blockDim.x + threadIdx.x; }

template <typename T>
constexpr int PACK = 16 / sizeof(T);

// The next entries from `from` on, `count` of them or a pack.
template <typename T>
__device__ inline Pack<T, PACK<T>> load_some(const void* from, const int64_t begin,
                                             const int64_t count) {
  const T* at = static_cast<const T*>(from) + begin;
  if (count >= PACK<T> && reinterpret_cast<uintptr_t>(at) % 16 == 0) return load<PACK<T>>(at);
  Pack<T, PACK<T>> pack{};
#pragma unroll
  for (int e = 0; e < PACK<T>; ++e)
    if (e < count) pack.at[e] = at[e];
  return pack;
}
template <typename T>
__device__ inline void store_some(void* to, const int64_t begin, const int64_t count,
                                  const Pack<T, PACK<T>>& pack) {
  T* at = static_cast<T*>(to) + begin;
  if (count >= PACK<T>) return store(at, pack);
#pragma unroll
  for (int e = 0; e < PACK<T>; ++e)
    if (e < count) at[e] = pack.at[e];
}

template <typename A>
__device__ inline SmoothParameters<A> parameters_of(const SmoothParameters<double>& p) {
  return {static_cast<A>(p.first), static_cast<A>(p.second), static_cast<A>(p.third)};
}

// Thread i computes g f'(x) for pack i. Floor: the bytes of x, g and of_x.
template <typename T>
__global__ __launch_bounds__(JACFAST_MAX_THREADS,
                             2) void activation_first_packs(const ActivationFirst op) {
  const int64_t begin = thread_number() * PACK<T>, count = op.size - begin;
  if (count <= 0) return;
  const auto x = load_some<T>(op.x, begin, count), g = load_some<T>(op.g, begin, count);
  const auto p = parameters_of<Acc<T>>(op.parameters);
  Pack<T, PACK<T>> of_x;
  with_kind(op.kind, [&](auto kind) {
#pragma unroll
    for (int e = 0; e < PACK<T>; ++e)
      narrow(wide(g.at[e]) * derivatives<kind.value, Math>(wide(x.at[e]), p).slope, of_x.at[e]);
  });
  store_some<T>(op.of_x, begin, count, of_x);
}

// Thread i computes u g f''(x) and u f'(x) for pack i. Floor: the bytes of x, g, u, of_x and of_g.
template <typename T>
__global__ __launch_bounds__(JACFAST_MAX_THREADS,
                             2) void activation_second_packs(const ActivationSecond op) {
  const int64_t begin = thread_number() * PACK<T>, count = op.size - begin;
  if (count <= 0) return;
  const auto x = load_some<T>(op.x, begin, count), g = load_some<T>(op.g, begin, count);
  const auto u = load_some<T>(op.u, begin, count);
  const auto p = parameters_of<Acc<T>>(op.parameters);
  Pack<T, PACK<T>> of_x, of_g;
  with_kind(op.kind, [&](auto kind) {
#pragma unroll
    for (int e = 0; e < PACK<T>; ++e) {
      const auto at = derivatives<kind.value, Math>(wide(x.at[e]), p);
      narrow(wide(u.at[e]) * wide(g.at[e]) * at.bend, of_x.at[e]);
      narrow(wide(u.at[e]) * at.slope, of_g.at[e]);
    }
  });
  store_some<T>(op.of_x, begin, count, of_x);
  store_some<T>(op.of_g, begin, count, of_g);
}

}  // namespace jacfast::cuda
