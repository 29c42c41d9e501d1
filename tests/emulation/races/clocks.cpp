#include "clocks.h"

#include <algorithm>

#include "../emulator.h"

namespace emulation::races {
namespace {

using Shared = std::shared_ptr<const Known>;

// Both together; the same object where one of them adds nothing.
Shared joined(const Shared& a, const Shared& b) {
  if (!a || !b || a == b) return a ? a : b;
  auto both = std::make_shared<Known>(*a);
  for (const auto& [block, clocks] : *b) {
    auto& mine = (*both)[block];
    mine.resize(std::max(mine.size(), clocks.size()));
    for (size_t t = 0; t < clocks.size(); ++t) mine[t] = std::max(mine[t], clocks[t]);
  }
  return both;
}

}  // namespace

void Clocks::start_launch() { atomics_.clear(); }

void Clocks::start_block(const uint32_t block, const unsigned threads) {
  threads_.assign(threads, {});
  block_ = block;
  base_ = 0;
}

void Clocks::block_barrier() {
  Shared known;
  for (const Thread& thread : threads_) {
    base_ = std::max(base_, thread.clock);
    known = joined(known, thread.known);
  }
  if (++base_ > LAST_CLOCK - 1) fail("too many barriers for the race detector");
  for (Thread& thread : threads_) {
    thread.clock = base_;
    thread.seen.fill(base_);
    thread.known = known;
  }
}

void Clocks::warp_barrier(const unsigned first, const unsigned mask) {
  Thread all;
  const auto each = [&](auto&& use) {
    for (unsigned lane = 0; lane < 32; ++lane)
      if (mask >> lane & 1) use(lane, threads_[first + lane]);
  };
  each([&](unsigned, const Thread& thread) {
    all.clock = std::max(all.clock, thread.clock + 1);
    for (unsigned l = 0; l < 32; ++l) all.seen[l] = std::max(all.seen[l], thread.seen[l]);
    all.known = joined(all.known, thread.known);
  });
  if (all.clock > LAST_CLOCK - 1) fail("too many barriers for the race detector");
  each([&](const unsigned lane, Thread&) { all.seen[lane] = all.clock; });
  each([&](unsigned, Thread& thread) {
    thread.clock = all.clock;
    thread.seen = all.seen;
    thread.known = all.known;
  });
}

// What is known so far goes out with the atomics after the fence, what those before it got is
// known from now on.
void Clocks::fence(const unsigned thread) {
  Thread& own = threads_[thread];
  own.known = joined(own.known, own.to_acquire);
  auto mine = std::make_shared<Known>();
  std::vector<uint32_t>& clocks = (*mine)[block_];
  clocks.assign(threads_.size(), base_);
  for (unsigned lane = 0; lane < 32 && thread / 32 * 32 + lane < clocks.size(); ++lane)
    clocks[thread / 32 * 32 + lane] = own.seen[lane];
  clocks[thread] = ++own.clock;
  own.released = joined(own.known, mine);
}

void Clocks::atomic(const unsigned thread, const uintptr_t address, const bool of_block) {
  Thread& own = threads_[thread];
  Shared& passed = atomics_[{address, of_block ? int64_t{block_} : -1}];
  own.to_acquire = joined(own.to_acquire, passed);
  passed = joined(passed, own.released);
}

Access Clocks::now(const unsigned thread, const Kind kind, const uint32_t pc) const {
  Access access;
  access.lanes = 1u << thread % 32;
  access.block = block_;
  access.pc = pc;
  access.clock = threads_[thread].clock;
  access.warp = thread / 32;
  access.kind = kind;
  return access;
}

uint32_t Clocks::unordered(const Access& earlier, const unsigned thread) const {
  const Thread& own = threads_[thread];
  const bool here = earlier.block == block_, warp = here && earlier.warp == thread / 32;
  if (here && earlier.clock < base_) return 0;
  uint32_t left = earlier.lanes;
  if (warp) {
    left &= ~(1u << thread % 32);
    for (unsigned lane = 0; lane < 32; ++lane)
      if (earlier.clock < own.seen[lane]) left &= ~(1u << lane);
  }
  if (!left || !own.known) return left;
  const auto known = own.known->find(earlier.block);
  if (known == own.known->end()) return left;
  for (unsigned lane = 0; lane < 32; ++lane)
    if (const size_t t = earlier.warp * 32 + lane; t < known->second.size())
      if (earlier.clock < known->second[t]) left &= ~(1u << lane);
  return left;
}

}  // namespace emulation::races
