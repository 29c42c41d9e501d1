// What was done to each word of four bytes since the launch, or since the block, began.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <unordered_map>
#include <vector>

#include "clocks.h"

namespace emulation::races {

// The accesses to a word that a later one may race with.
class Cell {
 public:
  // Of reads and atomics that nothing orders so many are remembered. Writes that nothing orders are
  // a race, so there are four at most, of a byte each.
  static constexpr unsigned READS = 8, MOST = READS + 4;

  // Call race(earlier, lanes) for each earlier access that `now` races with; remember `now`.
  template <typename Order, typename Race>
  void add(const Access& now, Order&& unordered, Race&& race) {
    bool merged = false;
    for (unsigned i = 0; i < count_;) {
      Access& earlier = at(i);
      if (together(earlier, now)) {
        earlier.lanes |= now.lanes;
        merged = true;
      } else if (earlier.bytes & now.bytes) {
        const bool covered = covers(now, earlier), conflict = conflicting(now, earlier);
        const uint32_t left = covered || conflict ? unordered(earlier) : earlier.lanes;
        if (conflict && left) race(earlier, left);
        if (covered && !(earlier.lanes = left)) {
          remove(i);
          continue;
        }
      }
      ++i;
    }
    if (merged || count_ == MOST || (now.kind != Kind::write && count_ >= READS)) return;
    ++count_;
    at(count_ - 1) = now;
  }

 private:
  static bool conflicting(const Access& a, const Access& b) {
    return a.kind != b.kind || a.kind == Kind::write;
  }
  // Whoever races with `earlier`, and is not ordered after `now`, races with `now`.
  static bool covers(const Access& now, const Access& earlier) {
    return !(earlier.bytes & ~now.bytes) && (now.kind == Kind::write || now.kind == earlier.kind);
  }
  static bool together(const Access& a, const Access& b) {
    return a.pc == b.pc && a.block == b.block && a.clock == b.clock && a.warp == b.warp &&
           a.bytes == b.bytes && a.kind == b.kind && (a.kind != Kind::write || a.lanes == b.lanes);
  }
  Access& at(const unsigned i) {
    if (i < FEW) return few_[i];
    if (!more_) more_ = std::make_unique<std::array<Access, MOST - FEW>>();
    return (*more_)[i - FEW];
  }
  void remove(const unsigned i) { at(i) = at(--count_); }

  static constexpr unsigned FEW = 2;
  std::array<Access, FEW> few_;
  std::unique_ptr<std::array<Access, MOST - FEW>> more_;
  unsigned count_ = 0;
};

// Cells by address, in pages. A launch begins with none, and gets so many and no more.
class Shadow {
 public:
  static constexpr size_t BYTES = 1024, PAGES = 32 * 1024;  // of memory that is watched

  void clear() {
    pages_.clear();
    last_ = nullptr;
  }
  // Return the cell of an address, or nullptr if that would be one page too many.
  Cell* at(const uintptr_t address) {
    const uintptr_t number = address / BYTES;
    if (!last_ || number != last_number_) {
      if (pages_.size() == PAGES && !pages_.contains(number)) return nullptr;
      auto& page = pages_[number];
      if (!page) page = std::make_unique<Page>();
      last_ = page.get();
      last_number_ = number;
    }
    return &(*last_)[address % BYTES / 4];
  }

 private:
  using Page = std::array<Cell, BYTES / 4>;
  std::unordered_map<uintptr_t, std::unique_ptr<Page>> pages_;
  Page* last_ = nullptr;
  uintptr_t last_number_ = 0;
};

}  // namespace emulation::races
