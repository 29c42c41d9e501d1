// norm_first and norm_second on the GPU: a team takes a row, for what has the shape of x
// (norm_rows.cuh); what is summed over samples has kernels of its own, which read the tensors a
// second time (norm_parameters.cuh). Floor of the op: 3 N C S entries in the first derivative, 5 in
// the second. Predicted for an H100, float32: 20 bytes an entry in the second, so 76 us for
// [16640, 768] at 3.35 TB/s, and 12 more, 46 us, where the weight's gradient is wanted; the row's
// three sweeps find it in the first-level cache.
#pragma once

#include "../ops/norm.h"
#include "sums.cuh"

namespace jacfast::cuda {

// Blocks on a multiprocessor at least: sums take registers, most of them those of doubles, and in
// the second derivative those of packs of eight, and of tensors that are not read alike.
template <bool SECOND, typename T, int VEC>
constexpr int NORM_BLOCKS = sizeof(T) == 8 || (SECOND && VEC != 4) ? 1 : 2;

template <typename T>
__device__ inline const T* input(const void* from, const int64_t begin) {
  return static_cast<const T*>(from) + begin;
}

// One pack of each tensor that is read; in the first derivative u is not.
template <typename T, int VEC>
struct NormPacks {
  Pack<T, VEC> x, g, u;
};

// The entries of a row that have one weight, or one weight each (size = 1).
template <typename T>
struct Stretch {
  int64_t begin;  // in the tensors
  const Acc<T>* weight;
  int each;  // 1: one each
  __device__ Stretch from(const int64_t d) const { return {begin + d, weight + each * d, each}; }
  // The value times the weight of entry e.
  __device__ Acc<T> weigh(const Acc<T> value, const int e) const {
    return weight == nullptr ? value : value * weight[each * e];
  }
};

// A pack, read in words of up to VEC entries, on whose boundaries it lies.
template <int VEC, int SIZE, typename T>
__device__ inline Pack<T, SIZE> load_by(const T* from) {
  constexpr int WORD = VEC < SIZE ? VEC : SIZE;
  Pack<T, SIZE> pack;
#pragma unroll
  for (int e = 0; e < SIZE; e += WORD) {
    const auto word = load<WORD>(from + e);
#pragma unroll
    for (int w = 0; w < WORD; ++w) pack.at[e + w] = word.at[w];
  }
  return pack;
}

// Give this thread its share of row `row`: use(packs, size, stretch), the stretch from there on.
// Packs are those of x; g and u are read in words of VEC entries.
template <bool SECOND, typename T, int VEC, typename Use>
__device__ inline void for_row(const Norm& op, const int64_t row, Use&& use) {
  const int64_t channels = op.row_channels(), length = op.size == 1 ? channels : op.size;
  const int64_t stretches = op.size == 1 ? 1 : channels;
  const bool each = op.size == 1 && op.weight != nullptr;
  Stretch<T> at{row * op.row_size(), static_cast<const Acc<T>*>(op.weight), each};
  if (at.weight != nullptr) at.weight += row % op.groups * channels;
  for (int64_t c = 0; c < stretches; ++c, at.begin += length) {
    for_packs<16 / sizeof(T), 1>(
        input<T>(op.x, at.begin), 0, length,
        [&](const int64_t d, auto size) {
          NormPacks<T, size.value> packs;
          packs.x = load<size.value>(input<T>(op.x, at.begin + d));
          packs.g = load_by<VEC, size.value>(input<T>(op.g, at.begin + d));
          if constexpr (SECOND) packs.u = load_by<VEC, size.value>(input<T>(op.u, at.begin + d));
          return packs;
        },
        [&](const int64_t d, const auto& packs, auto size) { use(packs, size, at.from(d)); });
    if (at.weight != nullptr) ++at.weight;
  }
}

// What sums over samples know of a row. The means are in two parts, as beside them entries can be
// differences.
template <typename A>
struct alignas(16) NormStats {
  A mean, rest;      // of x
  A mean_u, rest_u;  // of u, in the second derivative
  A rstd;            // 1 / its deviation
  A along_x;         // what the derivative in the weight has of x - mean, likewise
};

template <typename A>
__device__ inline NormStats<A>& stats_of(const Norm& op, const int64_t row) {
  static_assert(sizeof(NormStats<A>) <= NORM_STATS);
  return static_cast<NormStats<A>*>(op.stats)[row];
}

// An entry without the mean, whose rest is zero in float64.
template <typename A>
__device__ inline A without(const A entry, const A mean, const A rest) {
  if constexpr (sizeof(A) == 4) return entry - mean - rest;
  return entry - mean;
}

}  // namespace jacfast::cuda
