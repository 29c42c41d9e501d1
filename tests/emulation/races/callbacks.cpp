// What instrumented kernels call before each access, and what the emulator tells: races.h.
#include "races.h"

#include <algorithm>
#include <optional>
#include <string>

#include "../emulator.h"
#include "clocks.h"
#include "report.h"
#include "shadow.h"

#include <cuda_runtime.h>  // threadIdx and its like

namespace emulation::races {
namespace {

bool has(const Memory& memory, const uintptr_t address) {
  return address - reinterpret_cast<uintptr_t>(memory.begin) < memory.bytes;
}

Clocks clocks;
Shadow global_memory, shared_memory;
Memory stack, dynamic_memory, static_memory;
unsigned thread = 0;
bool in_kernel = false, too_much = false;
std::optional<Report> first;

// What each thread has for itself, or nobody writes.
bool is_private(const uintptr_t address) {
  return has(stack, address) || has({&threadIdx, sizeof(threadIdx)}, address) ||
         has({&blockIdx, sizeof(blockIdx)}, address) ||
         has({&blockDim, sizeof(blockDim)}, address) || has({&gridDim, sizeof(gridDim)}, address);
}

bool is_shared(const uintptr_t address) {
  return has(dynamic_memory, address) || has(static_memory, address);
}

// No exception may leave this: the compiler does not expect one where memory is read.
void look(const void* pointer, const size_t bytes, const Kind kind, const void* pc) noexcept {
  const auto begin = reinterpret_cast<uintptr_t>(pointer), end = begin + bytes;
  if (!in_kernel || is_private(begin)) return;
  const bool shared = is_shared(begin);
  Access now = clocks.now(thread, kind, in_library(pc));
  for (uintptr_t word = begin / 4 * 4; word < end; word += 4) {
    const unsigned from = std::max(begin, word) - word, to = std::min(end - word, uintptr_t{4});
    now.bytes = (1u << to) - (1u << from);
    Cell* const cell = (shared ? shared_memory : global_memory).at(word);
    if (!cell) {
      too_much = true;
      return;
    }
    cell->add(
        now, [](const Access& earlier) { return clocks.unordered(earlier, thread); },
        [&](const Access& earlier, const uint32_t lanes) {
          if (!first) first = Report{earlier, lanes, now, shared};
        });
  }
}

}  // namespace

void start_launch() {
  clocks.start_launch();
  global_memory.clear();
  first.reset();
  too_much = false;
}

void start_block(const unsigned block, const unsigned threads, const Memory dynamic,
                 const Memory fixed) {
  clocks.start_block(block, threads);
  shared_memory.clear();
  dynamic_memory = dynamic;
  static_memory = fixed;
}

void start_thread(const unsigned index, const Memory own_stack) {
  thread = index;
  stack = own_stack;
  in_kernel = true;
}

void leave_kernel() { in_kernel = false; }
void block_barrier() { clocks.block_barrier(); }
void warp_barrier(const unsigned first, const unsigned mask) { clocks.warp_barrier(first, mask); }
void fence() { clocks.fence(thread); }

std::string found() {
  if (first) return words(*first);
  const size_t watched = Shadow::BYTES * Shadow::PAGES >> 20;
  return too_much ? "a launch that touches more than the " + std::to_string(watched) +
                        " MiB that the race detector watches: test it on less"
                  : "";
}

Atomic::Atomic(const void* address, const size_t bytes) {
  const auto at = reinterpret_cast<uintptr_t>(address);
  look(address, bytes, Kind::atomic, __builtin_return_address(0));
  clocks.atomic(thread, at, is_shared(at));
  in_kernel = false;
}
Atomic::~Atomic() { in_kernel = true; }

}  // namespace emulation::races

using emulation::races::Kind;
using emulation::races::look;

#define CALLBACKS(BYTES)                                      \
  void __tsan_read##BYTES(const void* p) {                    \
    look(p, BYTES, Kind::read, __builtin_return_address(0));  \
  }                                                           \
  void __tsan_write##BYTES(const void* p) {                   \
    look(p, BYTES, Kind::write, __builtin_return_address(0)); \
  }                                                           \
  void __tsan_unaligned_read##BYTES(const void* p) {          \
    look(p, BYTES, Kind::read, __builtin_return_address(0));  \
  }                                                           \
  void __tsan_unaligned_write##BYTES(const void* p) {         \
    look(p, BYTES, Kind::write, __builtin_return_address(0)); \
  }

extern "C" {
void __tsan_init() {}
CALLBACKS(1)
CALLBACKS(2)
CALLBACKS(4)
CALLBACKS(8)
CALLBACKS(16)
void __tsan_read_range(const void* p, const size_t bytes) {
  look(p, bytes, Kind::read, __builtin_return_address(0));
}
void __tsan_write_range(const void* p, const size_t bytes) {
  look(p, bytes, Kind::write, __builtin_return_address(0));
}
void __tsan_vptr_read(const void*) {}
void __tsan_vptr_update(const void*, const void*) {}
}
