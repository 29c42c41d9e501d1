// Kernels by name, for the emulator's own tests.
#pragma once

#include <cuda_runtime.h>

#include <functional>
#include <map>
#include <stdexcept>
#include <string>

constexpr unsigned FULL = 0xffffffffu;

// Each works on `out`, 512 numbers that are 0.
using Kernels = std::map<std::string, std::function<void(double*)>>;
extern const Kernels racing;  // racing.cu

template <typename... P, typename... A>
void launch(const dim3 grid, const dim3 block, const size_t shared, void (*kernel)(P...),
            const A&... arguments) {
  cudaLaunchConfig_t config{};
  config.gridDim = grid;
  config.blockDim = block;
  config.dynamicSmemBytes = shared;
  const cudaError_t error = cudaLaunchKernelEx(&config, kernel, arguments...);
  if (error != cudaSuccess) throw std::runtime_error(cudaGetErrorString(error));
}
