// Fibers, rounds and barriers: see emulator.h.
#include "emulator.h"

#include <cuda_runtime.h>
#include <dlfcn.h>
#include <link.h>
#include <setjmp.h>
#include <ucontext.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <exception>
#include <memory>
#include <mutex>
#include <numeric>
#include <random>
#include <sstream>
#include <stdexcept>
#include <utility>
#include <vector>

// Bytes behind the dynamic shared memory that nobody may write.
#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/common_interface_defs.h>
static constexpr size_t GUARD = 0;  // it watches these itself
#else
static constexpr size_t GUARD = 64;
static void __sanitizer_start_switch_fiber(void**, const void*, size_t) {}
static void __sanitizer_finish_switch_fiber(void*, const void**, size_t*) {}
#endif

namespace emulation {
namespace {

constexpr size_t STACK = 128 * 1024;

enum class State { ready, at_block_barrier, at_warp_barrier, done };

struct Fiber {
  State state = State::ready;
  unsigned mask = 0;      // of the warp operation that it waits at
  const char* kind = "";  // of that operation
  uint64_t sent = 0;
  Lanes received{};
  Place place;
  std::unique_ptr<char[]> stack{new char[STACK]};
  ucontext_t entry{};
  jmp_buf here{};
  void* shadow = nullptr;  // AddressSanitizer's
  bool entered = false;
};

// The one grid that runs: kernels are launched one at a time (the mutex of run).
unsigned seed = 0;
int threads_at_most = 512;
std::vector<std::unique_ptr<Fiber>> fibers;  // those beyond `size` rest
unsigned size = 0;                           // threads of the block
unsigned current = 0;
std::function<void()> body;
std::exception_ptr error;
std::vector<std::byte> shared;
std::minstd_rand order_engine;
jmp_buf scheduler;
void* scheduler_shadow = nullptr;
const void* scheduler_stack = nullptr;
size_t scheduler_stack_size = 0;

// libc's own: AddressSanitizer's would clean up the stack that is left, as if nobody came back.
const auto libc_longjmp = reinterpret_cast<void (*)(jmp_buf, int)>(
    dlsym(dlopen("libc.so.6", RTLD_LAZY | RTLD_NOLOAD), "_longjmp"));

void leave(jmp_buf& from, jmp_buf& to) {
  if (_setjmp(from) == 0) libc_longjmp(to, 1);
}

void start(jmp_buf& from, const ucontext_t& to) {
  if (_setjmp(from) == 0) setcontext(&to);
}

void to_scheduler() {
  Fiber& fiber = *fibers[current];
  __sanitizer_start_switch_fiber(&fiber.shadow, scheduler_stack, scheduler_stack_size);
  leave(fiber.here, scheduler);
  __sanitizer_finish_switch_fiber(fiber.shadow, &scheduler_stack, &scheduler_stack_size);
}

void fiber_main() {
  __sanitizer_finish_switch_fiber(nullptr, &scheduler_stack, &scheduler_stack_size);
  for (;;) {  // one kernel thread per turn
    try {
      body();
    } catch (...) {
      error = std::current_exception();
    }
    fibers[current]->state = State::done;
    to_scheduler();
  }
}

void resume(const unsigned thread) {
  Fiber& fiber = *fibers[thread];
  current = thread;
  threadIdx = {thread % blockDim.x, thread / blockDim.x % blockDim.y,
               thread / blockDim.x / blockDim.y};
  races::start_thread(thread, {fiber.stack.get(), STACK});
  __sanitizer_start_switch_fiber(&scheduler_shadow, fiber.stack.get(), STACK);
  if (fiber.entered) {
    leave(scheduler, fiber.here);
  } else {
    fiber.entered = true;
    getcontext(&fiber.entry);
    fiber.entry.uc_stack = {.ss_sp = fiber.stack.get(), .ss_flags = 0, .ss_size = STACK};
    makecontext(&fiber.entry, fiber_main, 0);
    start(scheduler, fiber.entry);
  }
  __sanitizer_finish_switch_fiber(scheduler_shadow, nullptr, nullptr);
  races::leave_kernel();
}

void wait(const State state, const Place& place) {
  fibers[current]->state = state;
  fibers[current]->place = place;
  to_scheduler();
}

// Without a string of each: this is asked of every thread at every barrier.
bool same(const char* a, const char* b) { return a == b || std::strcmp(a, b) == 0; }

bool same(const Place& a, const Place& b) {
  return a.line() == b.line() && same(a.file_name(), b.file_name());
}

std::string where(const Place& place) {
  const std::string file = place.file_name();
  return file.substr(file.rfind('/') + 1) + ":" + std::to_string(place.line());
}

// Which threads wait where, threads in a row with the same fate on one line.
std::string report() {
  const auto fate = [](const Fiber& fiber) {
    std::ostringstream text;
    if (fiber.state == State::done) text << "returned";
    if (fiber.state == State::at_block_barrier) text << "at __syncthreads, " << where(fiber.place);
    if (fiber.state == State::at_warp_barrier)
      text << "at " << fiber.kind << " with mask 0x" << std::hex << fiber.mask << ", "
           << where(fiber.place);
    return text.str();
  };
  std::ostringstream text;
  for (unsigned first = 0, next = 0; first < size; first = next) {
    for (next = first + 1; next < size && fate(*fibers[next]) == fate(*fibers[first]);) ++next;
    text << "\n  block " << blockIdx.x << ", threads " << first << " to " << next - 1 << ": "
         << fate(*fibers[first]);
  }
  return text.str();
}

// Every thread of the block must wait at the same barrier; else it stays shut.
bool open_block_barrier() {
  for (unsigned t = 0; t < size; ++t)
    if (fibers[t]->state != State::at_block_barrier) return false;
  for (unsigned t = 1; t < size; ++t)
    if (!same(fibers[t]->place, fibers[0]->place))
      fail("a divergent barrier: threads of one block wait at different __syncthreads" + report());
  races::block_barrier();
  for (unsigned t = 0; t < size; ++t) fibers[t]->state = State::ready;
  return true;
}

// All lanes of a mask must wait with that mask; then each gets what they handed in.
bool open_warp_barriers(const unsigned first) {
  bool opened = false;
  const unsigned lanes = std::min(32u, size - first);
  for (unsigned l = 0; l < lanes; ++l) {
    const unsigned mask = fibers[first + l]->mask;
    if (fibers[first + l]->state != State::at_warp_barrier) continue;
    Lanes sent{mask, {}};
    bool complete = true;
    for (unsigned other = 0; other < 32; ++other) {
      if (!(mask >> other & 1)) continue;
      complete &= other < lanes && fibers[first + other]->state == State::at_warp_barrier &&
                  fibers[first + other]->mask == mask &&
                  same(fibers[first + other]->kind, fibers[first + l]->kind);
      if (complete) sent.values[other] = fibers[first + other]->sent;
    }
    if (!complete) continue;
    opened = true;
    if (same(fibers[first + l]->kind, BARRIER)) races::warp_barrier(first, mask);
    for (unsigned other = 0; other < lanes; ++other) {
      if (!(mask >> other & 1)) continue;
      fibers[first + other]->received = sent;
      fibers[first + other]->state = State::ready;
    }
  }
  return opened;
}

#ifndef __SANITIZE_ADDRESS__
thread_local volatile char any_static_shared_memory;

// Static shared arrays are thread_local (include/cuda_runtime.h), so they are this library's block
// of thread-local storage.
races::Memory static_shared() {
  any_static_shared_memory = 1;  // the block exists from now on
  struct Search {
    const void* own;
    races::Memory storage;
  } search{reinterpret_cast<const void*>(&emulation_configure), {}};
  dl_iterate_phdr(
      [](dl_phdr_info* library, size_t, void* data) {
        auto& search = *static_cast<Search*>(data);
        const auto own = reinterpret_cast<uintptr_t>(search.own);
        size_t storage = 0;
        bool found = false;
        for (int i = 0; i < library->dlpi_phnum; ++i) {
          const auto& part = library->dlpi_phdr[i];
          const uintptr_t begin = library->dlpi_addr + part.p_vaddr;
          if (part.p_type == PT_LOAD && begin <= own && own < begin + part.p_memsz) found = true;
          if (part.p_type == PT_TLS) storage = part.p_memsz;
        }
        if (found) search.storage = {library->dlpi_tls_data, storage};
        return int{found};
      },
      &search);
  return search.storage;
}
#else  // plain statics, for AddressSanitizer's red zones around them
races::Memory static_shared() { return {}; }
#endif

std::vector<unsigned> order(const uint64_t count) {
  std::vector<unsigned> indices(count);
  std::iota(indices.begin(), indices.end(), 0u);
  if (seed > 0) std::shuffle(indices.begin(), indices.end(), order_engine);
  return indices;
}

// Let every lane of a warp that can go on do so, then open its barriers; say whether any of it
// went.
bool run_warp(const unsigned first) {
  bool progress = false;
  for (const unsigned lane : order(std::min(32u, size - first))) {
    if (fibers[first + lane]->state != State::ready) continue;
    progress = true;
    resume(first + lane);
    if (error) std::rethrow_exception(std::exchange(error, nullptr));
  }
  return open_warp_barriers(first) || progress;
}

void run_block(const size_t shared_bytes) {
  const int poison = std::array{0xCD, 0x4D, 0xFF}[seed % 3];  // very small, very large, NaN
  const races::Memory fixed = static_shared();
  if (fixed.bytes) std::memset(fixed.begin, poison, fixed.bytes);
  shared = std::vector<std::byte>(shared_bytes + GUARD, std::byte(poison));
  races::start_block(blockIdx.x + gridDim.x * (blockIdx.y + gridDim.y * blockIdx.z), size,
                     {shared.data(), shared.size()}, fixed);
  for (unsigned t = 0; t < size; ++t) fibers[t]->state = State::ready;
  bool progress = true;
  while (progress) {
    progress = false;
    for (const unsigned warp : order((size + 31) / 32)) {
      // In a shuffled run a warp goes as far ahead of the others as barriers of the block let it.
      while (run_warp(32 * warp)) {
        progress = true;
        if (seed == 0) break;
      }
    }
    progress |= open_block_barrier();
  }
  for (unsigned t = 0; t < size; ++t)
    if (fibers[t]->state != State::done) fail("a barrier that can never open" + report());
  for (size_t i = shared_bytes; i < shared.size(); ++i)
    if (shared[i] != std::byte(poison)) fail("a write past the dynamic shared memory");
}

}  // namespace

void run(const dim3 grid, const dim3 block, const size_t shared_bytes,
         const std::function<void()>& kernel) {
  static std::mutex one_at_a_time;
  const std::lock_guard lock(one_at_a_time);
  gridDim = grid;
  blockDim = block;
  size = block.x * block.y * block.z;
  body = kernel;
  while (fibers.size() < size) fibers.push_back(std::make_unique<Fiber>());
  order_engine.seed(seed + 1);
  races::start_launch();
  try {
    for (const unsigned b : order(uint64_t{grid.x} * grid.y * grid.z)) {
      blockIdx = {b % grid.x, b / grid.x % grid.y, b / grid.x / grid.y};
      run_block(shared_bytes);
    }
  } catch (...) {
    fibers.clear();  // some stopped half way: their stacks are not used again
    throw;
  }
  if (const std::string race = races::found(); !race.empty()) fail(race);
}

void block_barrier(const Place& place) { wait(State::at_block_barrier, place); }

const Lanes& warp_exchange(const char* kind, const unsigned mask, const uint64_t value,
                           const Place& place) {
  Fiber& fiber = *fibers[current];
  if (!(mask >> lane() & 1)) fail("a warp operation whose mask leaves out the lane that calls it");
  fiber.kind = kind;
  fiber.mask = mask;
  fiber.sent = value;
  wait(State::at_warp_barrier, place);
  return fiber.received;
}

unsigned lane() { return current % 32; }
void* dynamic_shared() { return shared.data(); }
int max_threads() { return threads_at_most; }
void fail(const std::string& what) { throw std::runtime_error("emulation: " + what); }

}  // namespace emulation

void emulation_configure(const unsigned seed, const int max_threads) {
  emulation::seed = seed;
  emulation::threads_at_most = max_threads;
}

cudaError_t cudaGetLastError() { return cudaSuccess; }

const char* cudaGetErrorString(const cudaError_t error) {
  return error == cudaErrorInvalidConfiguration ? "invalid configuration argument" : "an error";
}
