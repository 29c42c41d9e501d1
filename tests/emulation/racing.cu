// Kernels with a race, each beside a right one that differs from it in one place.
#include "planted.h"

#include <cstdint>
#include <vector>

namespace {

enum class Is { right, wrong };

// Threads add to one slot: by atomics, or by reading and writing.
__global__ void shared_slot(double* out, const Is is) {
  __shared__ double slot;
  if (threadIdx.x == 0) slot = 0;
  __syncthreads();
  if (is == Is::right)
    atomicAdd(&slot, 1.0);
  else
    slot += 1;
  __syncthreads();
  out[blockIdx.x * blockDim.x + threadIdx.x] = slot;
}

// All read an address that others add to atomically: behind a barrier, or at once.
__global__ void atomic_and_read(double* out, const Is is) {
  atomicAdd(&out[0], 1.0);
  if (is == Is::right) __syncthreads();
  out[1 + threadIdx.x] = out[0];
}

// Each block has its result, or all have the same one.
__global__ void result_of_blocks(double* out, const Is is) {
  if (threadIdx.x == 0) out[is == Is::right ? blockIdx.x : 0] = 7;
}

// One thread writes the result, or all write the same.
__global__ void result_of_threads(double* out, const Is is) {
  if (is == Is::wrong || threadIdx.x == 0) out[0] = 7;
}

// The last thread of the block that comes last adds up what all have left; out[500] counts the
// blocks. Fences between the results and the counter, and between the counter and the results.
__global__ void last_block(double* out, const bool before, const bool after) {
  __shared__ bool last;
  out[blockIdx.x * blockDim.x + threadIdx.x] = 1;
  __syncthreads();
  if (threadIdx.x == 0) {
    if (before) __threadfence();
    last = atomicAdd(&out[500], 1.0) == gridDim.x - 1;
    if (after) __threadfence();
  }
  __syncthreads();
  if (!last || threadIdx.x < blockDim.x - 1) return;
  double sum = 0;
  for (unsigned i = 0; i < gridDim.x * blockDim.x; ++i) sum += out[i];
  out[501] = sum;
}

// Blocks, in whatever order they come, read what the one before has left: behind a counter of all,
// or one that each block has for itself. The number that they get orders nothing: no fence.
__global__ void counter_of_blocks(double* out, const Is is) {
  __shared__ double own;
  const int number = static_cast<int>(atomicAdd(&out[500], 1.0));
  out[number] = 1;
  __threadfence();
  atomicAdd(is == Is::right ? &out[501] : &own, 1.0);
  __threadfence();
  if (number > 0) out[100 + number] = out[number - 1];
}

// Lanes read what their neighbours wrote: behind a barrier of the warp, or a shuffle.
__global__ void shuffle_for_barrier(double* out, const Is is) {
  __shared__ double slots[32];
  slots[threadIdx.x] = threadIdx.x;
  if (is == Is::right)
    __syncwarp();
  else
    out[100 + threadIdx.x] = __shfl_xor_sync(FULL, 1.0, 1);
  out[threadIdx.x] = slots[threadIdx.x ^ 1];
}

// A barrier of half the lanes each; their reads stay within the half, or leave it.
__global__ void partial_mask(double* out, const Is is) {
  __shared__ double slots[32];
  slots[threadIdx.x] = threadIdx.x;
  __syncwarp(threadIdx.x < 16 ? 0x0000ffffu : 0xffff0000u);
  out[threadIdx.x] = slots[threadIdx.x ^ (is == Is::right ? 8 : 16)];
}

// Lanes that meet one after another, each half with the lanes between: order is passed on.
__global__ void masks_in_turn(double* out, const Is is) {
  __shared__ double slot;
  if (threadIdx.x == 0) slot = 1;
  if (threadIdx.x < 16) __syncwarp(0x0000ffffu);
  if (is == Is::right && threadIdx.x >= 8 && threadIdx.x < 24) __syncwarp(0x00ffff00u);
  if (threadIdx.x >= 16) __syncwarp(0xffff0000u);
  if (threadIdx.x == 31) out[0] = slot;
}

// Warps read what another one wrote: behind a barrier of the block, or of the warp.
__global__ void barrier_of_a_warp(double* out, const Is is) {
  __shared__ double slots[64];
  slots[threadIdx.x] = threadIdx.x;
  if (is == Is::right)
    __syncthreads();
  else
    __syncwarp();
  out[threadIdx.x] = slots[threadIdx.x ^ 32];
}

// A slot is written after another thread has read it.
__global__ void overwritten(double* out, const Is is) {
  __shared__ double slots[65];
  slots[threadIdx.x + 1] = 1;
  __syncthreads();
  const double next = slots[threadIdx.x + 1];
  if (is == Is::right) __syncthreads();
  slots[threadIdx.x] = next;
  out[blockIdx.x * blockDim.x + threadIdx.x] = next;
}

__global__ void dynamic_slots(double* out, const Is is) {
  double* const slots = static_cast<double*>(JACFAST_DYNAMIC_SHARED);
  slots[threadIdx.x] = threadIdx.x;
  if (is == Is::right) __syncthreads();
  out[blockIdx.x * blockDim.x + threadIdx.x] = slots[blockDim.x - 1 - threadIdx.x];
}

// Bytes of one word: each thread its own, or two of them the same.
__global__ void bytes_of_a_word(double* out, const Is is) {
  reinterpret_cast<uint8_t*>(out)[is == Is::right ? threadIdx.x : threadIdx.x / 2] = 1;
}

// 16 bytes at once, and one of the last of them.
__global__ void part_of_a_pack(double* out, const Is is) {
  uint4* const packs = reinterpret_cast<uint4*>(out);
  if (threadIdx.x == 0) packs[0] = packs[2];
  if (threadIdx.x == 1) out[10] = reinterpret_cast<uint8_t*>(out)[is == Is::right ? 16 : 15];
}

struct Sums {
  double at[9];
};

// A structure that no single instruction copies.
__global__ void whole_structures(double* out, const Is is) {
  __shared__ Sums slots[32];
  Sums sums;
  for (int i = 0; i < 9; ++i) sums.at[i] = threadIdx.x + i;
  slots[threadIdx.x] = sums;
  if (is == Is::right) __syncwarp();
  sums = slots[threadIdx.x ^ 1];
  out[threadIdx.x] = sums.at[8];
}

__global__ void write_own(double* out) { out[blockIdx.x] = blockIdx.x; }
__global__ void read_next(double* out) {
  out[100 + blockIdx.x] = out[(blockIdx.x + 1) % gridDim.x];
}
__global__ void write_own_and_read_next(double* out) {
  out[blockIdx.x] = blockIdx.x;
  out[100 + blockIdx.x] = out[(blockIdx.x + 1) % gridDim.x];
}

__global__ void touch(char* memory, const int64_t bytes) {
  for (int64_t i = threadIdx.x; i * 512 < bytes; i += blockDim.x) memory[i * 512] = 1;
}

void touch_much(const int64_t bytes) {
  std::vector<char> memory(bytes);
  launch(1, 32, 0, touch, memory.data(), bytes);
}

// A pair of kernels that differ in the last argument.
void add(Kernels& to, const std::string& name, const dim3 grid, const unsigned threads,
         void (*kernel)(double*, Is)) {
  const auto run = [=](const Is is) {
    return [=](double* out) { launch(grid, threads, threads * 8, kernel, out, is); };
  };
  to[name + ": right"] = run(Is::right);
  to[name + ": wrong"] = run(Is::wrong);
}

Kernels made() {
  Kernels all;
  add(all, "shared slot", 2, 64, shared_slot);
  add(all, "atomic and read", 1, 64, atomic_and_read);
  add(all, "result of blocks", 3, 32, result_of_blocks);
  add(all, "counter of blocks", 3, 1, counter_of_blocks);
  add(all, "result of threads", 1, 64, result_of_threads);
  add(all, "shuffle for barrier", 1, 32, shuffle_for_barrier);
  add(all, "partial mask", 1, 32, partial_mask);
  add(all, "masks in turn", 1, 32, masks_in_turn);
  add(all, "barrier of a warp", 1, 64, barrier_of_a_warp);
  add(all, "overwritten", 2, 64, overwritten);
  add(all, "dynamic slots", 2, 64, dynamic_slots);
  add(all, "bytes of a word", 1, 64, bytes_of_a_word);
  add(all, "part of a pack", 1, 32, part_of_a_pack);
  add(all, "whole structures", 1, 32, whole_structures);
  const auto last = [](const bool before, const bool after) {
    return [=](double* out) { launch(3, 64, 0, last_block, out, before, after); };
  };
  all["last block: right"] = last(true, true);
  all["last block, no fence before: wrong"] = last(false, true);
  all["last block, no fence after: wrong"] = last(true, false);
  all["launches: right"] = [](double* out) {
    launch(3, 1, 0, write_own, out);
    launch(3, 1, 0, read_next, out);
  };
  all["launches: wrong"] = [](double* out) { launch(3, 1, 0, write_own_and_read_next, out); };
  all["as much as is watched"] = [](double*) { touch_much(30'000'000); };
  all["more than is watched"] = [](double*) { touch_much(40'000'000); };
  return all;
}

}  // namespace

const Kernels racing = made();
