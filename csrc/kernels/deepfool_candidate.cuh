// deepfool_candidate on the GPU. Floor of the op: N D entries read, and written where the candidate
// is nearer.
#pragma once

#include "../ops/deepfool_candidate.h"
#include "deepfool.cuh"

namespace jacfast::cuda {

template <typename T>
__device__ inline const T* row_of(const DeepFoolCandidate& op, const int64_t i) {
  return static_cast<const T*>(op.w) + i * op.w_stride;
}

// The sum of squares of w over part p of sample i, for every thread of the team.
template <typename T>
__device__ inline double measure(const DeepFoolCandidate& op, const int64_t i, const int64_t p) {
  return sum_part<Squared>(row_of<T>(op, i), part_of(op.size, op.parts, p));
}

// Whether the candidate of sample i is nearer than what is kept.
template <typename T>
__device__ inline bool is_closer(const DeepFoolCandidate& op, const int64_t i, const double norm) {
  if (!usable<Acc<T>>(norm)) return false;
  const Acc<T> distance = distance_to(wide(static_cast<const T*>(op.f)[i]), norm);
  const Acc<T> nearest = static_cast<const Acc<T>*>(op.distance)[i];
  return distance < nearest || (distance == nearest && op.label[i] < op.winner[i]);
}

template <typename T>
__device__ inline void keep(const DeepFoolCandidate& op, const int64_t i, const double norm) {
  static_cast<Acc<T>*>(op.distance)[i] = distance_to(wide(static_cast<const T*>(op.f)[i]), norm);
  static_cast<Acc<T>*>(op.norm)[i] = static_cast<Acc<T>>(norm);
  op.winner[i] = op.label[i];
}

template <typename T>
__device__ inline void copy(const DeepFoolCandidate& op, const int64_t i, const int64_t p) {
  const Span part = part_of(op.size, op.parts, p);
  const T* w = row_of<T>(op, i);
  T* nearest = static_cast<T*>(op.nearest_w) + i * op.size;
  for_packs<16 / sizeof(T), 4>(
      w, part.begin, part.end, [&](const int64_t d, auto size) { return load<size.value>(w + d); },
      [&](const int64_t d, const auto& pack, auto size) { store<size.value>(nearest + d, pack); });
}

// Team i measures w of sample i and, if it is nearer, keeps it. Floor: the bytes of w, twice where
// nearer (the second read is from the cache).
template <typename T>
__global__ __launch_bounds__(JACFAST_MAX_THREADS,
                             2) void deepfool_candidate_whole(const DeepFoolCandidate op) {
  const int64_t i = item();
  if (i >= op.samples) return;
  const double norm = sqrt(measure<T>(op, i, 0));
  const bool closer = is_closer<T>(op, i, norm);
  team_sync();  // everyone has compared before thread 0 changes what they compared with
  if (!closer) return;
  if (threadIdx.x == 0) keep<T>(op, i, norm);
  copy<T>(op, i, 0);
}

// Team b measures part b % parts of w of sample b / parts. Floor: the bytes of w.
template <typename T>
__global__ __launch_bounds__(JACFAST_MAX_THREADS,
                             2) void deepfool_candidate_measure(const DeepFoolCandidate op) {
  const int64_t i = item() / op.parts;
  if (i >= op.samples) return;
  const double sum = measure<T>(op, i, item() % op.parts);
  if (threadIdx.x == 0) op.sumsq[item()] = sum;
}

// Team i decides for sample i. Floor: 8 bytes a part.
template <typename T>
__global__ __launch_bounds__(JACFAST_MAX_THREADS,
                             2) void deepfool_candidate_decide(const DeepFoolCandidate op) {
  const int64_t i = item();
  if (i >= op.samples) return;
  const double norm = sqrt(sum_of_parts(op.sumsq + i * op.parts, op.parts));
  if (threadIdx.x > 0) return;
  op.closer[i] = is_closer<T>(op, i, norm);
  if (op.closer[i]) keep<T>(op, i, norm);
}

// Team b copies part b % parts of w of sample b / parts, if that was nearer. Floor: twice the bytes
// of the w copied.
template <typename T>
__global__ __launch_bounds__(JACFAST_MAX_THREADS,
                             2) void deepfool_candidate_copy(const DeepFoolCandidate op) {
  const int64_t i = item() / op.parts;
  if (i < op.samples && op.closer[i]) copy<T>(op, i, item() % op.parts);
}

}  // namespace jacfast::cuda
