// deepfool_step on the GPU. Floor of the op: N C D entries read once, N D written.
#pragma once

#include "../ops/deepfool_step.h"
#include "deepfool.cuh"

namespace jacfast::cuda {

// Classes measured in one sweep over a part: their loads are in flight together.
constexpr int SWEEP = 10;

template <typename T>
__device__ inline const T* row_of(const DeepFoolStep& op, const int64_t i, const int64_t k) {
  return static_cast<const T*>(op.rows) + i * op.sample_stride + k * op.class_stride;
}

// Sum the squares of w_k over one part of sample i, for classes first .. first + SWEEP - 1.
template <typename T, int VEC>
__device__ inline void measure_sweep(const DeepFoolStep& op, const int64_t i, const int64_t p,
                                     const int64_t first) {
  const Span part = part_of(op.size, op.parts, p);
  const int64_t last = op.classes - 1;
  const T* origin = row_of<T>(op, i, op.origin[i]);
  Sums<SWEEP> sums;
  for_packs<VEC, 1>(
      origin, part.begin, part.end,
      [&](const int64_t d, auto size) { return load<size.value>(origin + d); },
      [&](const int64_t d, const auto& from, auto size) {
#pragma unroll
        for (int s = 0; s < SWEEP; ++s) {  // past the last class: that class again, to be ignored
          const int64_t k = first + s < last ? first + s : last;
          const auto to = load<size.value>(row_of<T>(op, i, k) + d);
#pragma unroll
          for (int e = 0; e < size.value; ++e) {
            const double w = wide(to.at[e]) - wide(from.at[e]);
            sums.at[s] += w * w;
          }
        }
      });
  sums = team_sum(sums);
  if (threadIdx.x > 0) return;
  double* sumsq = op.sumsq + (i * op.parts + p) * op.classes + first;
#pragma unroll
  for (int s = 0; s < SWEEP; ++s)
    if (first + s <= last) sumsq[s] = sums.at[s];
}

template <typename T, int VEC>
__device__ inline void measure(const DeepFoolStep& op, const int64_t i, const int64_t p) {
  const bool inside = op.origin[i] >= 0 && op.origin[i] < op.classes;
  if (!inside) return;  // choose() skips every class of such a sample
  for (int64_t first = 0; first < op.classes; first += SWEEP)
    measure_sweep<T, VEC>(op, i, p, first);
}

struct Choice {
  double distance;
  int64_t winner;
  double norm;
  __device__ Choice from_lane(const int lanes) const {
    return {lane_xor(distance, lanes), lane_xor(winner, lanes), lane_xor(norm, lanes)};
  }
};

__device__ inline Choice nearer(const Choice a, const Choice b) {
  if (a.distance == b.distance) return a.winner < b.winner ? a : b;
  return a.distance < b.distance ? a : b;
}

// The nearest boundary of sample i from the sums of its parts; thread t looks at classes t, t + ...
template <typename T>
__device__ inline Choice choose(const DeepFoolStep& op, const int64_t i) {
  const T* z = static_cast<const T*>(op.logits) + i * op.classes;
  const int64_t origin = op.origin[i];
  const bool inside = origin >= 0 && origin < op.classes;
  Choice best{never(), INT64_MAX, 1};
  for (int64_t k = threadIdx.x; inside && k < op.classes; k += blockDim.x) {
    if (k == origin) continue;
    double sum = 0;
#pragma unroll 8
    for (int64_t p = 0; p < op.parts; ++p) sum += op.sumsq[(i * op.parts + p) * op.classes + k];
    const double norm = sqrt(sum);
    if (!usable<Acc<T>>(norm)) continue;
    const double distance = distance_to(wide(z[k]) - wide(z[origin]), norm);
    if (distance < best.distance) best = {distance, k, norm};
  }
  best = team_reduce(best, nearer);
  if (!(best.distance < never())) best.winner = -1;
  return best;
}

template <typename T, int VEC>
struct Two {
  Pack<T, VEC> to, from;
};

// Write part p of r of sample i; its first team also writes winner and distance.
template <typename T, int VEC>
__device__ inline void finish(const DeepFoolStep& op, const int64_t i, const int64_t p) {
  const Choice best = choose<T>(op, i);
  if (p == 0 && threadIdx.x == 0) {
    op.winner[i] = best.winner;
    static_cast<Acc<T>*>(op.distance)[i] = static_cast<Acc<T>>(best.distance);
  }
  const bool stalled = best.winner < 0;
  const T* to = row_of<T>(op, i, stalled ? 0 : best.winner);
  const T* from = row_of<T>(op, i, stalled ? 0 : op.origin[i]);
  // Two factors: length / norm alone may overflow.
  const Acc<T> inverse = static_cast<Acc<T>>(1 / best.norm);
  const Acc<T> length = static_cast<Acc<T>>(best.distance + op.floor);
  const Span part = part_of(op.size, op.parts, p);
  T* r = static_cast<T*>(op.r) + i * op.size;
  for_packs<VEC, 2>(
      to, part.begin, part.end,
      [&](const int64_t d, auto size) {
        return Two<T, size.value>{load<size.value>(to + d), load<size.value>(from + d)};
      },
      [&](const int64_t d, const auto& rows, auto size) {
        Pack<T, size.value> step;
#pragma unroll
        for (int e = 0; e < size.value; ++e) {
          const Acc<T> w = wide(rows.to.at[e]) - wide(rows.from.at[e]);
          narrow(stalled ? Acc<T>(0) : w * inverse * length, step.at[e]);
        }
        store<size.value>(r + d, step);
      });
}

// Team i measures every class of sample i and writes its step, while its rows are in the cache.
// Floor: the bytes of rows and r.
template <typename T, int VEC>
__global__ __launch_bounds__(JACFAST_MAX_THREADS,
                             1) void deepfool_step_whole(const DeepFoolStep op) {
  const int64_t i = item();
  if (i >= op.samples) return;
  measure<T, VEC>(op, i, 0);
  team_sync();  // thread 0 wrote the sums that all now read
  finish<T, VEC>(op, i, 0);
}

// Team b measures every class on part b % parts of sample b / parts. Floor: the bytes of rows.
template <typename T, int VEC>
__global__ __launch_bounds__(JACFAST_MAX_THREADS,
                             1) void deepfool_step_measure(const DeepFoolStep op) {
  const int64_t i = item() / op.parts;
  if (i < op.samples) measure<T, VEC>(op, i, item() % op.parts);
}

// Team b writes part b % parts of the step of sample b / parts. Floor: three times the bytes of r.
template <typename T, int VEC>
__global__ __launch_bounds__(JACFAST_MAX_THREADS,
                             1) void deepfool_step_finish(const DeepFoolStep op) {
  const int64_t i = item() / op.parts;
  if (i < op.samples) finish<T, VEC>(op, i, item() % op.parts);
}

}  // namespace jacfast::cuda
