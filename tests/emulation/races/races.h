// The race detector: kernels are compiled with -fsanitize=thread, which calls back before each
// access to memory (callbacks.cpp; there is no libtsan). An access is a race with an earlier one to
// the same byte if one of them writes, not both are atomic, and nothing orders them (clocks.cpp):
//
//   Same thread:   the program.
//   Same warp:     __syncwarp, for the lanes of its mask. Not a shuffle, vote or reduction.
//   Same block:    __syncthreads.
//   Across blocks: a __threadfence, then an atomic; an atomic of another thread on the same
//                  address that comes after it, then a __threadfence. This counts within a block,
//                  too, and is passed on by barriers.
//   Two launches:  the stream.
//
// So it does not depend on the order in which threads happened to run, or on the values: all
// threads writing the same number is a race.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

namespace emulation::races {

struct Memory {
  void* begin = nullptr;
  size_t bytes = 0;
};

#ifdef JACFAST_RACES
// What the emulator tells.
void start_launch();
void start_block(unsigned block, unsigned threads, Memory dynamic, Memory fixed);  // shared ones
void start_thread(unsigned thread, Memory stack);
void leave_kernel();  // the emulator's own code runs
void block_barrier();
void warp_barrier(unsigned first, unsigned mask);  // of the warp that starts at thread `first`
std::string found();                               // the first race of the launch, or nothing

// What kernels tell beside the plain accesses.
void fence();

// One atomic access: what the guard's scope reads and writes is not looked at by itself.
class Atomic {
 public:
  Atomic(const void* address, size_t bytes);
  ~Atomic();
};
#else
inline void start_launch() {}
inline void start_block(unsigned, unsigned, Memory, Memory) {}
inline void start_thread(unsigned, Memory) {}
inline void leave_kernel() {}
inline void block_barrier() {}
inline void warp_barrier(unsigned, unsigned) {}
inline std::string found() { return {}; }
inline void fence() {}
struct Atomic {
  Atomic(const void*, size_t) {}
};
#endif

}  // namespace emulation::races
