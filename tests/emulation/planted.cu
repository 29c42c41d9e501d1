// Kernels for the emulator's own tests: right ones, and ones with a fault planted.
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdio>
#include <stdexcept>

#include "planted.h"

namespace {

__device__ double warp_sum(double value, const unsigned mask = FULL) {
  for (int lanes = 16; lanes > 0; lanes /= 2) value += __shfl_xor_sync(mask, value, lanes);
  return value;
}

// Each block sums its threads' numbers. `barrier` false: the slots are read without waiting.
__global__ void block_sum(double* out, const bool barrier) {
  __shared__ double slots[32];
  const double sum = warp_sum(static_cast<double>(threadIdx.x));
  if (threadIdx.x % 32 == 0) slots[threadIdx.x / 32] = sum;
  if (barrier) __syncthreads();
  double total = 0;
  for (unsigned warp = 0; warp < blockDim.x / 32; ++warp) total += slots[warp];
  out[blockIdx.x * blockDim.x + threadIdx.x] = total;
}

// Only warp 0 goes through a warp barrier that the others never see.
__global__ void first_warp_only(double* out) {
  if (threadIdx.x < 32) out[threadIdx.x] = warp_sum(1);
  __syncthreads();
  if (threadIdx.x >= 32) out[threadIdx.x] = out[threadIdx.x - 32];
}

// Every thread adds one to its own place and tells where in the grid it is.
__global__ void indices(double* out) {
  const unsigned block = blockIdx.x + gridDim.x * (blockIdx.y + gridDim.y * blockIdx.z);
  const unsigned thread = threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z);
  out[block * blockDim.x * blockDim.y * blockDim.z + thread] += 1;
}

// All warp operations, one result per lane and operation: out[operation * 32 + lane].
__global__ void warp_operations(double* out) {
  const int lane = static_cast<int>(threadIdx.x);
  const unsigned even = 0x55555555u;
  int at = lane;
  const auto put = [&](const double value) { out[at] = value, at += 32; };
  put(__shfl_sync(FULL, lane, 5));
  put(__shfl_sync(FULL, lane, 9, 8));
  put(__shfl_up_sync(FULL, lane, 3u));
  put(__shfl_down_sync(FULL, lane, 3u, 16));
  put(__shfl_xor_sync(FULL, lane + 0.5f, 1));
  put(__ballot_sync(FULL, lane < 3));
  put(__any_sync(FULL, lane == 7));
  put(__all_sync(FULL, lane == 7));
  put(__reduce_add_sync(FULL, lane));
  put(__reduce_min_sync(FULL, lane - 4));
  put(__reduce_max_sync(FULL, lane));
  put(lane % 2 == 0 ? __reduce_add_sync(even, lane) : __reduce_add_sync(~even, lane));
  __syncwarp();
}

__global__ void atomics(double* out) {
  atomicAdd(&out[0], 1.0);
  atomicMax(&out[1], static_cast<double>(threadIdx.x));
  atomicMin(&out[2], -static_cast<double>(threadIdx.x));
  if (atomicCAS(&out[3], 0.0, 7.0) == 0.0) atomicExch(&out[4], 9.0);
}

__global__ void halves(double* out) {
  const float third = 1.0f / 3;
  out[0] = __half2float(__float2half_rn(third));
  out[1] = __bfloat162float(__float2bfloat16_rn(third));
}

__global__ void dynamic_memory(double* out, const unsigned past) {
  double* const bytes = static_cast<double*>(JACFAST_DYNAMIC_SHARED);
  bytes[threadIdx.x + past] = threadIdx.x;
  __syncthreads();
  out[threadIdx.x] = bytes[blockDim.x - 1 - threadIdx.x];
}

// The last thread to come wins: whoever that is.
__global__ void race(double* out) {
  __shared__ unsigned last;
  last = threadIdx.x;
  __syncthreads();
  out[threadIdx.x] = last;
}

// Block 0 writes shared memory, the blocks after it read what they never wrote.
__global__ void unwritten(double* out) {
  __shared__ double slots[32];
  if (blockIdx.x == 0) slots[threadIdx.x % 32] = 1;
  __syncthreads();
  out[blockIdx.x * blockDim.x + threadIdx.x] = slots[threadIdx.x % 32];
}

__global__ void past_static(double* out, const unsigned past) {
  __shared__ double slots[64];
  slots[threadIdx.x + past] = threadIdx.x;
  out[threadIdx.x] = slots[threadIdx.x];
}

__global__ void barrier_in_both_branches(double*) {
  if (threadIdx.x < 32)
    __syncthreads();
  else
    __syncthreads();
}

__global__ void barrier_for_half_a_warp(double*) {
  if (threadIdx.x % 32 < 16)
    __syncthreads();
  else
    __syncwarp();
}

__global__ void return_before_block_barrier(double*) {
  if (threadIdx.x == 63) return;
  __syncthreads();
}

__global__ void return_before_shuffle(double* out) {
  if (threadIdx.x == 63) return;
  out[threadIdx.x] = warp_sum(1);
}

__global__ void mask_of_all_for_half(double* out) {
  if (threadIdx.x % 32 < 16) out[threadIdx.x] = warp_sum(1);
}

__global__ void mask_without_oneself(double* out) {
  out[threadIdx.x] = __shfl_sync(0xffffu, 1.0, 0);
}

__global__ void lane_outside_the_mask(double* out) {
  if (threadIdx.x % 32 < 16) out[threadIdx.x] = __shfl_sync(0xffffu, 1.0, 20);
}

__global__ void masks_that_differ(double* out) {
  out[threadIdx.x] = __shfl_sync(threadIdx.x % 32 == 0 ? 1u : FULL, 1.0, 0);
}

__global__ void barrier_meets_shuffle(double* out) {
  if (threadIdx.x % 32 < 16)
    __syncwarp();
  else
    out[threadIdx.x] = __shfl_xor_sync(FULL, 1.0, 1);
}

const Kernels kernels = {
    {"block sum", [](double* out) { launch(3, 128, 0, block_sum, out, true); }},
    {"first warp only", [](double* out) { launch(1, 64, 0, first_warp_only, out); }},
    {"indices", [](double* out) { launch({2, 3, 2}, {4, 3, 2}, 0, indices, out); }},
    {"warp operations", [](double* out) { launch(1, 32, 0, warp_operations, out); }},
    {"atomics", [](double* out) { launch(2, 64, 0, atomics, out); }},
    {"halves", [](double* out) { launch(1, 1, 0, halves, out); }},
    {"dynamic memory", [](double* out) { launch(1, 64, 64 * 8, dynamic_memory, out, 0u); }},
    {"no thread", [](double* out) { launch(1, 0, 0, atomics, out); }},
    {"too many threads", [](double* out) { launch(1, 513, 0, atomics, out); }},
    {"too deep a block", [](double* out) { launch(1, {1, 1, 65}, 0, atomics, out); }},
    {"too much memory", [](double* out) { launch(1, 1, 48 * 1024, atomics, out); }},
    {"missing barrier", [](double* out) { launch(3, 128, 0, block_sum, out, false); }},
    {"race", [](double* out) { launch(1, 64, 0, race, out); }},
    {"unwritten", [](double* out) { launch(2, 64, 0, unwritten, out); }},
    {"past dynamic", [](double* out) { launch(1, 64, 64 * 8, dynamic_memory, out, 1u); }},
    {"past static", [](double* out) { launch(1, 64, 0, past_static, out, 1u); }},
    {"barrier in both branches",
     [](double* out) { launch(1, 64, 0, barrier_in_both_branches, out); }},
    {"barrier for half a warp",
     [](double* out) { launch(1, 64, 0, barrier_for_half_a_warp, out); }},
    {"return before block barrier",
     [](double* out) { launch(1, 64, 0, return_before_block_barrier, out); }},
    {"return before shuffle", [](double* out) { launch(1, 64, 0, return_before_shuffle, out); }},
    {"mask of all for half", [](double* out) { launch(1, 64, 0, mask_of_all_for_half, out); }},
    {"mask without oneself", [](double* out) { launch(1, 64, 0, mask_without_oneself, out); }},
    {"lane outside the mask", [](double* out) { launch(1, 64, 0, lane_outside_the_mask, out); }},
    {"masks that differ", [](double* out) { launch(1, 64, 0, masks_that_differ, out); }},
    {"barrier meets shuffle", [](double* out) { launch(1, 64, 0, barrier_meets_shuffle, out); }},
    {"lane that is not there", [](double* out) { launch(1, 48, 0, block_sum, out, true); }},
};

}  // namespace

// Run a kernel by name on out; put what it throws into message, and say whether it threw.
extern "C" bool planted(const char* name, double* out, char* message, const size_t length) {
  try {
    (racing.contains(name) ? racing : kernels).at(name)(out);
    return false;
  } catch (const std::exception& error) {
    std::snprintf(message, length, "%s", error.what());
    return true;
  }
}
