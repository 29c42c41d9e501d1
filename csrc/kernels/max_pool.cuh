// max_pool, max_pool_scatter and max_pool_gather on the GPU. Floor of each: what is read and
// written, once. Where windows overlap, the entries that they share come from the cache.
#pragma once

#include "../ops/max_pool.h"
#include "device.cuh"

namespace jacfast::cuda {

// The number of this thread: blocks are one team, and cover the entries in order.
__device__ inline int64_t thread_number() { return item() * blockDim.x + threadIdx.x; }

// A window by its number: the plane, and the first row and column of the plane that it covers.
struct Window {
  int64_t plane, row, column;
};
__device__ inline Window window_of(const Pooling& pool, const int64_t window) {
  const int64_t line = window / pool.out_width;
  return {line / pool.out_height, line % pool.out_height * pool.stride_height,
          window % pool.out_width * pool.stride_width};
}
__device__ inline int64_t entry_of(const Pooling& pool, const Window& window) {
  return (window.plane * pool.height + window.row) * pool.width + window.column;
}

// Thread i takes the maximum of window i. Floor: the bytes of x, y and choice.
template <typename T>
__global__ __launch_bounds__(JACFAST_MAX_THREADS, 2) void max_pool_choose(const MaxPool op) {
  const Pooling& pool = op.pool;
  const int64_t i = thread_number();
  if (i >= pool.planes * pool.out_height * pool.out_width) return;
  const T* first = static_cast<const T*>(op.x) + entry_of(pool, window_of(pool, i));
  T chosen = *first;
  int place = 0, last = 0;
  for (int64_t row = 0; row < pool.kernel_height; ++row)
    for (int64_t column = 0; column < pool.kernel_width; ++column, ++last) {
      const T entry = first[row * pool.width + column];
      if (!(wide(entry) > wide(chosen)) && !isnan(wide(entry))) continue;
      chosen = entry;
      place = last;
    }
  const bool dead = op.relu && wide(chosen) <= 0;
  if (dead) narrow(Acc<T>(0), chosen);
  static_cast<T*>(op.y)[i] = chosen;
  op.choice[i] = dead ? DEAD : static_cast<uint8_t>(place);
}

__device__ inline int64_t lesser(const int64_t a, const int64_t b) { return a < b ? a : b; }

// Thread i adds up what entry i gets from the windows that cover it, in their order. Floor: the
// bytes of g, choice and out.
template <typename T>
__global__ __launch_bounds__(JACFAST_MAX_THREADS,
                             2) void max_pool_scatter_entries(const MaxPoolScatter op) {
  const Pooling& pool = op.pool;
  const int64_t i = thread_number();
  if (i >= pool.planes * pool.height * pool.width) return;
  const int64_t line = i / pool.width, column = i % pool.width;
  const int64_t plane = line / pool.height, row = line % pool.height;
  // The first window that reaches down to this row, and how many from there on start by it; the
  // same across. Where there are several, they overlap: the stride is less than the kernel, and
  // small.
  const int64_t above = row - pool.kernel_height, left = column - pool.kernel_width;
  const int64_t top = above < 0 ? 0 : above / pool.stride_height + 1;
  const int64_t start = left < 0 ? 0 : left / pool.stride_width + 1;
  const int down = static_cast<int>(lesser(row / pool.stride_height, pool.out_height - 1) - top);
  const int across =
      static_cast<int>(lesser(column / pool.stride_width, pool.out_width - 1) - start);
  const int row_step = static_cast<int>(pool.stride_height * pool.kernel_width);
  const int column_step = static_cast<int>(pool.stride_width);
  int64_t window = (plane * pool.out_height + top) * pool.out_width + start;
  int place = static_cast<int>((row - top * pool.stride_height) * pool.kernel_width + column -
                               start * pool.stride_width);
  Acc<T> sum = 0;
  for (int a = 0; a <= down; ++a, window += pool.out_width)
    for (int b = 0; b <= across; ++b)
      if (op.choice[window + b] == place - a * row_step - b * column_step)
        sum += wide(static_cast<const T*>(op.g)[window + b]);
  narrow(sum, static_cast<T*>(op.out)[i]);
}

// Thread i takes the entry that window i chose. Floor: the bytes of choice and out, and a sector of
// 32 bytes of t for each entry taken, at most the bytes of t.
template <typename T>
__global__ __launch_bounds__(JACFAST_MAX_THREADS,
                             2) void max_pool_gather_windows(const MaxPoolGather op) {
  const Pooling& pool = op.pool;
  const int64_t i = thread_number();
  if (i >= pool.planes * pool.out_height * pool.out_width) return;
  const int place = op.choice[i], width = static_cast<int>(pool.kernel_width);
  T chosen;
  if (place < pool.kernel_height * width)
    chosen = static_cast<const T*>(
        op.t)[entry_of(pool, window_of(pool, i)) + place / width * pool.width + place % width];
  else
    narrow(Acc<T>(0), chosen);
  static_cast<T*>(op.out)[i] = chosen;
}

}  // namespace jacfast::cuda
