// Launching: one checked call, the element type, and how many threads a row deserves.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <algorithm>
#include <cstdint>
#include <limits>
#include <stdexcept>
#include <string>

#include "../dtype.h"
#include "../split.h"
#include "stream.h"

namespace jacfast::cuda {

// Threads per block at most: the number in every kernel's launch bounds. The emulator tries others.
#ifndef JACFAST_MAX_THREADS
#define JACFAST_MAX_THREADS 512
#endif

// Launch `kernel` on `blocks` blocks of `threads` threads, and throw if that was refused.
template <typename... Parameters, typename... Arguments>
void launch(const char* name, void (*kernel)(Parameters...), const int64_t blocks,
            const int threads, Stream stream, const Arguments&... arguments) {
  if (blocks > std::numeric_limits<int32_t>::max())
    throw std::runtime_error(std::string(name) + ": needs " + std::to_string(blocks) +
                             " blocks, more than a grid has; pass fewer samples at a time");
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(static_cast<unsigned>(blocks));
  config.blockDim = dim3(static_cast<unsigned>(threads));
  config.stream = stream;
  const cudaError_t error = cudaLaunchKernelEx(&config, kernel, arguments...);
  if (error != cudaSuccess)
    throw std::runtime_error(std::string(name) + ": " + cudaGetErrorString(error));
}

// Threads per block for parts of `size` entries: four packs of 16 bytes each, whole warps.
inline int threads_for(const int64_t size, const int64_t bytes) {
  const int64_t wanted = (size * bytes + 63) / 64;
  return static_cast<int>(std::clamp<int64_t>((wanted + 31) / 32 * 32, 32, JACFAST_MAX_THREADS));
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

// Whether every row of a strided array starts on 16 bytes, so that packs can be loaded whole.
inline bool aligned(const void* data, const int64_t bytes, std::initializer_list<int64_t> strides) {
  bool whole = reinterpret_cast<uintptr_t>(data) % 16 == 0;
  for (const int64_t stride : strides) whole &= stride * bytes % 16 == 0;
  return whole;
}

}  // namespace jacfast::cuda
