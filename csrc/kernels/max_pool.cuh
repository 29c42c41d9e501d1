// max_pool, max_pool_scatter and max_pool_gather on the GPU. Floor of each: what is read and
// written, once. Where windows overlap, the entries that they share come from the cache.
//
// Counted on sm_90 (cuobjdump -sass), not measured: max_pool takes 108 instructions for a window of
// 2 x 2 in float32, max_pool_scatter 119, max_pool_gather 89. That is 4 ps on an H100, whose memory
// takes 6 for the 21 bytes of either of the first two.
#pragma once

#include "../ops/max_pool.h"
#include "device.cuh"

namespace jacfast::cuda {

struct Divided {
  int quotient, remainder;
};

// A number from 1 to 2^31 - 1 by which threads divide numbers from 0 to 2^31 - 1: a product and a
// shift, where a division takes some twenty instructions, of 64 bits some seventy. With 2^bits the
// least power of two not below it, factor = 2^(31 + bits) / divisor, rounded up, is off by less
// than 1, and so the quotient by less than 1 / divisor (Granlund & Montgomery 1994, theorem 4.2).
struct Divisor {
  int divisor = 1;
  uint32_t factor = 1u << 31;
  int bits = 0;
  Divisor() = default;
  explicit Divisor(const int64_t number) : divisor(static_cast<int>(number)) {
    while (int64_t{1} << bits < number) ++bits;
    const uint64_t power = uint64_t{1} << (31 + bits);
    factor = static_cast<uint32_t>((power + number - 1) / number);
  }
  __device__ Divided of(const int number) const {
    const uint64_t product = uint64_t{static_cast<uint32_t>(number)} * factor;
    const int quotient = static_cast<int>(product >> (31 + bits));
    return {quotient, number - quotient * divisor};
  }
};

// A pooling as a thread sees it: planes from `first` on, with less than 2^31 entries, so that
// numbers of entries and windows have 32 bits.
struct Planes {
  int64_t first;
  int threads;  // that have something to do
  int height, width, kernel_height, kernel_width, out_height, out_width;
  Divisor stride_height, stride_width, by_width, by_height, by_out_width, by_out_height;
};
template <typename Op>
struct Pooled {
  Op op;
  Planes pool;
};

// The number of this thread, or -1 if it has nothing to do: blocks are one team, and cover the
// entries in order.
__device__ inline int thread_number(const Planes& pool) {
  const int64_t number = item() * blockDim.x + threadIdx.x;
  return number < pool.threads ? static_cast<int>(number) : -1;
}

// The planes of an input or of a gradient of it; of windows.
template <typename T, typename V>
__device__ inline T* entries(V* all, const Planes& pool) {
  return static_cast<T*>(all) + pool.first * pool.height * pool.width;
}
template <typename T, typename V>
__device__ inline T* windows(V* all, const Planes& pool) {
  return static_cast<T*>(all) + pool.first * pool.out_height * pool.out_width;
}

// The first entry that a window covers, by the number of the window.
__device__ inline int first_entry(const Planes& pool, const int window) {
  const Divided line = pool.by_out_width.of(window), plane = pool.by_out_height.of(line.quotient);
  const int row = plane.quotient * pool.height + plane.remainder * pool.stride_height.divisor;
  return row * pool.width + line.remainder * pool.stride_width.divisor;
}

// SIZE: of the windows, 2 for those of 2 x 2, whose loops the compiler unrolls; 0 for others.
template <int SIZE>
__device__ inline int height_of(const Planes& pool) {
  return SIZE > 0 ? SIZE : pool.kernel_height;
}
template <int SIZE>
__device__ inline int width_of(const Planes& pool) {
  return SIZE > 0 ? SIZE : pool.kernel_width;
}

// Thread i takes the maximum of window i. Floor: the bytes of x, y and choice.
template <typename T, int SIZE>
__global__ __launch_bounds__(JACFAST_MAX_THREADS,
                             2) void max_pool_choose(const Pooled<MaxPool> pooled) {
  const auto& [op, pool] = pooled;
  const int i = thread_number(pool);
  if (i < 0) return;
  const T* first = entries<const T>(op.x, pool) + first_entry(pool, i);
  T chosen = *first;
  int place = 0, last = 0;
#pragma unroll
  for (int row = 0; row < height_of<SIZE>(pool); ++row)
#pragma unroll
    for (int column = 0; column < width_of<SIZE>(pool); ++column, ++last) {
      const T entry = first[row * pool.width + column];
      if (!(wide(entry) > wide(chosen)) && !isnan(wide(entry))) continue;
      chosen = entry;
      place = last;
    }
  const bool dead = op.relu && wide(chosen) <= 0;
  if (dead) narrow(Acc<T>(0), chosen);
  windows<T>(op.y, pool)[i] = chosen;
  windows<uint8_t>(op.choice, pool)[i] = dead ? DEAD : static_cast<uint8_t>(place);
}

__device__ inline int lesser(const int a, const int b) { return a < b ? a : b; }

// Thread i adds up what entry i gets from the windows that cover it, in their order. Floor: the
// bytes of g, choice and out.
template <typename T>
__global__ __launch_bounds__(JACFAST_MAX_THREADS,
                             2) void max_pool_scatter_entries(const Pooled<MaxPoolScatter> pooled) {
  const auto& [op, pool] = pooled;
  const int i = thread_number(pool);
  if (i < 0) return;
  const T* g = windows<const T>(op.g, pool);
  const uint8_t* choice = windows<const uint8_t>(op.choice, pool);
  const Divided line = pool.by_width.of(i), plane = pool.by_height.of(line.quotient);
  const int row = plane.remainder, column = line.remainder;
  // The first window that reaches down to this row, and how many from there on start by it; the
  // same across. Where there are several, they overlap: the stride is less than the kernel, and
  // small.
  const int above = row - pool.kernel_height, left = column - pool.kernel_width;
  const int top = above < 0 ? 0 : pool.stride_height.of(above).quotient + 1;
  const int start = left < 0 ? 0 : pool.stride_width.of(left).quotient + 1;
  const int down = lesser(pool.stride_height.of(row).quotient, pool.out_height - 1) - top;
  const int across = lesser(pool.stride_width.of(column).quotient, pool.out_width - 1) - start;
  const int row_step = pool.stride_height.divisor * pool.kernel_width;
  const int column_step = pool.stride_width.divisor;
  int window = (plane.quotient * pool.out_height + top) * pool.out_width + start;
  const int place = (row - top * pool.stride_height.divisor) * pool.kernel_width + column -
                    start * pool.stride_width.divisor;
  Acc<T> sum = 0;
  for (int a = 0; a <= down; ++a, window += pool.out_width)
    for (int b = 0; b <= across; ++b)
      if (choice[window + b] == place - a * row_step - b * column_step) sum += wide(g[window + b]);
  narrow(sum, entries<T>(op.out, pool)[i]);
}

// Thread i writes the entries of cell i, of 2 x 2: a window's, or zeros where the last row or
// column is too short for one. Floor: the bytes of g, choice and out.
template <typename T>
__global__ __launch_bounds__(JACFAST_MAX_THREADS,
                             2) void max_pool_scatter_cells(const Pooled<MaxPoolScatter> pooled) {
  const auto& [op, pool] = pooled;
  const int i = thread_number(pool);
  if (i < 0) return;
  const Divided line = pool.by_width.of(i), plane = pool.by_height.of(line.quotient);
  const int row = plane.remainder, column = line.remainder;
  T zero, taken;
  narrow(Acc<T>(0), zero);
  taken = zero;
  int place = DEAD;
  if (row < pool.out_height && column < pool.out_width) {
    const int window = (plane.quotient * pool.out_height + row) * pool.out_width + column;
    place = windows<const uint8_t>(op.choice, pool)[window];
    taken = windows<const T>(op.g, pool)[window];
  }
  const int first = (plane.quotient * pool.height + 2 * row) * pool.width + 2 * column;
  T* out = entries<T>(op.out, pool) + first;
#pragma unroll
  for (int e = 0; e < 4; ++e)
    if (2 * row + e / 2 < pool.height && 2 * column + e % 2 < pool.width)
      out[e / 2 * pool.width + e % 2] = place == e ? taken : zero;
}

// Thread i takes the entry that window i chose. Floor: the bytes of choice and out, and a sector of
// 32 bytes of t for each entry taken, at most the bytes of t.
template <typename T, int SIZE>
__global__ __launch_bounds__(JACFAST_MAX_THREADS,
                             2) void max_pool_gather_windows(const Pooled<MaxPoolGather> pooled) {
  const auto& [op, pool] = pooled;
  const int i = thread_number(pool);
  if (i < 0) return;
  const int place = windows<const uint8_t>(op.choice, pool)[i], across = width_of<SIZE>(pool);
  T chosen;
  if (place < height_of<SIZE>(pool) * across)
    chosen = entries<const T>(
        op.t, pool)[first_entry(pool, i) + place / across * pool.width + place % across];
  else
    narrow(Acc<T>(0), chosen);
  windows<T>(op.out, pool)[i] = chosen;
}

}  // namespace jacfast::cuda
