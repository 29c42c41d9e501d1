// The sums of squares that deepfool_step chooses by: of w_k = row_k - row_origin, for every class
// k.
#pragma once

#include "../ops/deepfool_step.h"
#include "sums.cuh"

namespace jacfast::cuda {

// Classes measured in one sweep over a part, whose loads are in flight together; the last three at
// most have a sweep of their own.
constexpr int SWEEP = 10, FEW = 3;

template <typename T>
__device__ inline const T* row_of(const DeepFoolStep& op, const int64_t i, const int64_t k) {
  return static_cast<const T*>(op.rows) + i * op.sample_stride + k * op.class_stride;
}

// Class number s of a sweep; past the last class: that class again, to be ignored.
__device__ inline int64_t class_of(const DeepFoolStep& op, const int64_t first, const int s) {
  return first + s < op.classes - 1 ? first + s : op.classes - 1;
}

// Call use(s, w, size) for each class s of a sweep and each pack of this thread's share of part p
// of sample i: entry e of the pack of w_k is w(e), rounded to Acc<T> as the step's own.
template <typename T, int VEC, int COUNT, typename Use>
__device__ inline void for_differences(const DeepFoolStep& op, const int64_t i, const int64_t p,
                                       const int64_t first, Use&& use) {
  const Span part = part_of(op.size, op.parts, p);
  const T* origin = row_of<T>(op, i, op.origin[i]);
  for_packs<VEC, 1>(
      origin, part.begin, part.end,
      [&](const int64_t d, auto size) { return load<size.value>(origin + d); },
      [&](const int64_t d, const auto& from, auto size) {
#pragma unroll
        for (int s = 0; s < COUNT; ++s) {
          const auto to = load<size.value>(row_of<T>(op, i, class_of(op, first, s)) + d);
          use(s, [&](const int e) { return wide(to.at[e]) - wide(from.at[e]); }, size);
        }
      });
}

// The sums of squares of w_k over part p of sample i, for classes first .. first + COUNT - 1: in
// float32, and in float64 where that does not hold them all. Half types entry by entry are in
// float64 at once: of a single square, what float32 rounds off is more work.
template <typename T, int VEC, int COUNT>
__device__ inline Sums<COUNT> sweep(const DeepFoolStep& op, const int64_t i, const int64_t p,
                                    const int64_t first) {
  constexpr bool in_float32 = sizeof(T) == 4 || (sizeof(T) == 2 && VEC > 1);
  Sums<COUNT> sums;
  if constexpr (in_float32) {
    FloatSum short_sums[COUNT];
    for_differences<T, VEC, COUNT>(op, i, p, first, [&](const int s, const auto& w, auto size) {
      short_sums[s] += pack_sum<Squared, size.value>(w);
    });
#pragma unroll
    for (int s = 0; s < COUNT; ++s) sums.at[s] = short_sums[s].total();
    sums = team_sum(sums);
    bool all_held = true;
#pragma unroll
    for (int s = 0; s < COUNT; ++s)  // the origin's is 0
      all_held &= held(sums.at[s]) || class_of(op, first, s) == op.origin[i];
    if (all_held) return sums;
    sums = {};
  }
  for_differences<T, VEC, COUNT>(op, i, p, first, [&](const int s, const auto& w, auto size) {
#pragma unroll
    for (int e = 0; e < size.value; ++e) sums.at[s] += Squared::of(double{w(e)});
  });
  return team_sum(sums);
}

// Thread 0 writes the sums of a sweep.
template <typename T, int VEC, int COUNT>
__device__ inline void measure_sweep(const DeepFoolStep& op, const int64_t i, const int64_t p,
                                     const int64_t first) {
  const Sums<COUNT> sums = sweep<T, VEC, COUNT>(op, i, p, first);
  if (threadIdx.x > 0) return;
  double* sumsq = op.sumsq + (i * op.parts + p) * op.classes + first;
#pragma unroll
  for (int s = 0; s < COUNT; ++s)
    if (first + s < op.classes) sumsq[s] = sums.at[s];
}

template <typename T, int VEC>
__device__ inline void measure(const DeepFoolStep& op, const int64_t i, const int64_t p) {
  const bool inside = op.origin[i] >= 0 && op.origin[i] < op.classes;
  if (!inside) return;  // choose() skips every class of such a sample
  int64_t first = 0;
  for (; op.classes - first > FEW; first += SWEEP) measure_sweep<T, VEC, SWEEP>(op, i, p, first);
  if (first < op.classes) measure_sweep<T, VEC, FEW>(op, i, p, first);
}

}  // namespace jacfast::cuda
