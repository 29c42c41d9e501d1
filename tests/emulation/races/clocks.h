// Who knows how far each thread had come: vector clocks, as far as barriers and fences need them.
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <memory>
#include <utility>
#include <vector>

namespace emulation::races {

enum class Kind : uint32_t { read, write, atomic };

// What lanes of one warp did to bytes of a word, each at the same time of its own clock.
struct Access {
  uint32_t lanes = 0;  // none: no access
  uint32_t block = 0;
  uint32_t pc = 0;  // within the library
  uint32_t clock : 22 = 0;
  uint32_t warp : 4 = 0;
  uint32_t bytes : 4 = 0;  // of the word of four, a bit each
  Kind kind : 2 = Kind::read;
};
constexpr uint32_t LAST_CLOCK = (1u << 22) - 1;

// Of each block, of each thread: everything that it did before this time.
using Known = std::map<uint32_t, std::vector<uint32_t>>;

class Clocks {
 public:
  void start_launch();
  void start_block(uint32_t block, unsigned threads);
  void block_barrier();
  void warp_barrier(unsigned first, unsigned mask);
  void fence(unsigned thread);
  void atomic(unsigned thread, uintptr_t address, bool of_block);  // else of all

  // Return an access of `thread`, now.
  Access now(unsigned thread, Kind kind, uint32_t pc) const;
  // Return the lanes of an earlier access that nothing orders before `thread`, now.
  uint32_t unordered(const Access& earlier, unsigned thread) const;

 private:
  struct Thread {
    uint32_t clock = 0;
    std::array<uint32_t, 32> seen{};          // of the lanes of its warp
    std::shared_ptr<const Known> known;       // by fences and atomics
    std::shared_ptr<const Known> released;    // at its last fence
    std::shared_ptr<const Known> to_acquire;  // by a fence to come
  };
  std::vector<Thread> threads_;
  // What each address passes on; of shared memory each block has its own.
  std::map<std::pair<uintptr_t, int64_t>, std::shared_ptr<const Known>> atomics_;
  uint32_t block_ = 0;
  uint32_t base_ = 0;  // the clock of all threads at the last barrier of the block
};

}  // namespace emulation::races
