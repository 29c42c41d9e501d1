// deepfool_step on the GPU. Floor of the op: N C D entries read once, N D written.
#pragma once

#include "deepfool.cuh"
#include "deepfool_measure.cuh"

namespace jacfast::cuda {

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
