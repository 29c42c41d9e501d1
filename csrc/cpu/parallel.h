// The threads of the CPU twins.
#pragma once

#include <algorithm>
#include <cstdint>

namespace jacfast::cpu {

// Fewer elements than this per thread do not repay waking one.
constexpr int64_t GRAIN = 32768;

// Call body(i) for i = 0 .. tasks-1, in contiguous ranges, on up to `threads` threads; `work` is
// the number of elements read in all. Each task's result must not depend on who runs it.
template <typename F>
void parallel_for(const int64_t tasks, const int64_t work, const int threads, const F& body) {
  [[maybe_unused]] const auto useful = std::min<int64_t>({threads, tasks, 1 + work / GRAIN});
#ifdef _OPENMP  // else one thread does it all
#pragma omp parallel for schedule(static) num_threads(useful) if (useful > 1)
#endif
  for (int64_t i = 0; i < tasks; ++i) body(i);
}

}  // namespace jacfast::cpu
