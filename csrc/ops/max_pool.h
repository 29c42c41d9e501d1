// The contract of max_pool, max_pool_scatter and max_pool_gather between the ops (checks,
// allocation) and their twins (cpu, cuda).
#pragma once

#include <cstdint>

#include "../dtype.h"
#include "../kernels/stream.h"

namespace jacfast {

// A choice is the place of an entry in its window, row * kernel_width + column. This one, like any
// that is kernel_height * kernel_width or more, names none: the window is dead.
constexpr uint8_t DEAD = 255;

struct Pooling {
  Dtype dtype;            // of the values
  int64_t planes;         // N C
  int64_t height, width;  // H, W: what is pooled
  int64_t kernel_height;  // of a window, at most H
  int64_t kernel_width;   // at most W; the product at most 255
  int64_t stride_height;  // between windows, 1 to H
  int64_t stride_width;   // 1 to W
  int64_t out_height;     // H', how many windows, from windows_in()
  int64_t out_width;      // W'
};

struct MaxPool {
  Pooling pool;
  bool relu;        // windows whose maximum is at most 0 are dead, with value 0
  const void* x;    // [planes, H, W]
  void* y;          // [planes, H', W']
  uint8_t* choice;  // [planes, H', W']
};

struct MaxPoolScatter {
  Pooling pool;
  const void* g;          // [planes, H', W']
  const uint8_t* choice;  // [planes, H', W']
  void* out;              // [planes, H, W]
};

struct MaxPoolGather {
  Pooling pool;
  const void* t;          // [planes, H, W]
  const uint8_t* choice;  // [planes, H', W']
  void* out;              // [planes, H', W']
};

// How many windows fit side by side.
inline int64_t windows_in(const int64_t size, const int64_t kernel, const int64_t stride) {
  return (size - kernel) / stride + 1;
}

namespace cpu {
void max_pool(const MaxPool& op, int threads);
void max_pool_scatter(const MaxPoolScatter& op, int threads);
void max_pool_gather(const MaxPoolGather& op, int threads);
}  // namespace cpu
namespace cuda {
void max_pool(const MaxPool& op, Stream stream);
void max_pool_scatter(const MaxPoolScatter& op, Stream stream);
void max_pool_gather(const MaxPoolGather& op, Stream stream);
}  // namespace cuda

}  // namespace jacfast
