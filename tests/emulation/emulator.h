// CUDA blocks on the CPU: every CUDA thread is a fiber, and one fiber runs at a time until it waits
// at a barrier or returns. include/cuda_runtime.h says what kernels see; this is what runs them.
//
//   Order.  Blocks run one after another. In order (seed 0) every thread that can go on does so in
//           turn. Shuffled (another seed), blocks, warps and lanes come in an order drawn from the
//           seed, and a warp runs as far ahead of the others as the barriers let it. What depends
//           on the order (a missing barrier, who writes last) gives another result under another
//           seed. A thread is never stopped between two barriers: what two threads read, change and
//           write back without an atomic comes out right here. The race detector sees it
//           (races/races.h).
//   Memory. Shared memory is filled with a byte chosen by the seed before each block, so that a
//   read
//           of what nobody wrote shows.
//   Errors. A barrier that can never open, a shuffle from a lane that does not take part and a
//   write
//           past the dynamic shared memory throw, and say which threads wait where.
//
// The rules are stricter than CUDA's where CUDA leaves a case undefined or open: a thread that has
// returned never counts as arrived, all threads of a block must wait at the same __syncthreads (the
// same line: two calls of a function that has one cannot be told apart), and all lanes of a warp
// operation must name the same mask.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <source_location>
#include <string>

#include "races/races.h"
#include "vector_types.h"

namespace emulation {

using Place = std::source_location;

// What the lanes of `mask` handed in at a warp operation.
struct Lanes {
  unsigned mask;
  uint64_t values[32];
};

// Run kernel() once per thread of the grid. Throws what a thread throws.
void run(dim3 grid, dim3 block, size_t shared_bytes, const std::function<void()>& kernel);

// The kind of warp operation that orders memory; the others do not.
inline constexpr char BARRIER[] = "__syncwarp";

// Wait until every thread of the block waits here.
void block_barrier(const Place& place);

// Hand in a value, wait until every lane of `mask` has, in an operation of the same kind, and see
// what they handed in.
const Lanes& warp_exchange(const char* kind, unsigned mask, uint64_t value, const Place& place);

unsigned lane();
void* dynamic_shared();
int max_threads();  // per block, for launchers; set by emulation_configure

[[noreturn]] void fail(const std::string& what);

}  // namespace emulation

// For the tests: the order (0: ascending) and the largest block that launchers choose.
extern "C" void emulation_configure(unsigned seed, int max_threads);
