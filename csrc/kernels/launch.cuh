// Launching: one checked call, the element type, and how many threads a row deserves.
#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>
#include <stdexcept>
#include <string>

#include "../dtype.h"
#include "device.cuh"
#include "stream.h"

namespace jacfast::cuda {

// Dynamic shared memory that a launch gets without asking: 48 KiB, of which a reduction takes some.
constexpr int64_t SHARED_BYTES = 47 * 1024;

// Launch `kernel` with a team of `block` for each item, and throw if that was refused.
template <typename Op>
void launch(const char* name, void (*kernel)(Op), const int64_t items, const dim3 block,
            const Op& op, Stream stream, const int64_t shared_bytes = 0) {
  const int64_t blocks = (items + block.y - 1) / block.y;
  if (blocks > std::numeric_limits<int32_t>::max())
    throw std::runtime_error(std::string(name) + ": needs " + std::to_string(blocks) +
                             " blocks, more than a grid has; pass fewer samples at a time");
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(static_cast<unsigned>(blocks));
  config.blockDim = block;
  config.dynamicSmemBytes = static_cast<size_t>(shared_bytes);
  config.stream = stream;
  const cudaError_t error = cudaLaunchKernelEx(&config, kernel, op);
  if (error == cudaSuccess) return;
  static_cast<void>(cudaGetLastError());  // or the next launch of somebody else is blamed
  throw std::runtime_error(std::string(name) + ": " + cudaGetErrorString(error));
}

// The block of teams for items that `threads` threads share: whole warps, four teams of one warp.
inline dim3 teams_of(const int64_t threads) {
  const int64_t team = std::clamp<int64_t>((threads + 31) / 32 * 32, 32, JACFAST_MAX_THREADS);
  const int64_t teams = team == 32 ? std::min<int64_t>(4, JACFAST_MAX_THREADS / 32) : 1;
  return dim3(static_cast<unsigned>(team), static_cast<unsigned>(teams));
}

// The same for items of `size` entries: four packs of 16 bytes to a thread.
inline dim3 teams_for(const int64_t size, const int64_t bytes) {
  return teams_of((size * bytes + 63) / 64);
}

// Call body(T{}) with the CUDA type of `dtype`.
template <typename F>
void with_type(const Dtype dtype, F&& body) {
  switch (dtype) {
    case Dtype::f32: return body(float{});
    case Dtype::f64: return body(double{});
    case Dtype::f16: return body(__half{});
    case Dtype::bf16: return body(__nv_bfloat16{});
  }
}

}  // namespace jacfast::cuda
