// deepfool_candidate on the CPU: one task per sample measures w and, if it is nearer, keeps it.
#include "../ops/deepfool_candidate.h"

#include "deepfool.h"
#include "parallel.h"

namespace jacfast::cpu {
namespace {

template <typename T>
void offer(const DeepFoolCandidate& op, const int64_t i) {
  const T* w = static_cast<const T*>(op.w) + i * op.w_stride;
  const double norm = std::sqrt(sumsq(w, op.size));
  if (!usable<Acc<T>>(norm)) return;
  Acc<T>& nearest = static_cast<Acc<T>*>(op.distance)[i];
  const Acc<T> distance = distance_to(wide(static_cast<const T*>(op.f)[i]), norm);
  const bool tie = distance == nearest && op.label[i] < op.winner[i];
  if (!(distance < nearest) && !tie) return;
  nearest = distance;
  static_cast<Acc<T>*>(op.norm)[i] = static_cast<Acc<T>>(norm);
  op.winner[i] = op.label[i];
  std::copy(w, w + op.size, static_cast<T*>(op.nearest_w) + i * op.size);
}

}  // namespace

void deepfool_candidate(const DeepFoolCandidate& op, const int threads) {
  with_type(op.dtype, [&](auto type) {
    parallel_for(op.samples, op.samples * op.size, threads,
                 [&](const int64_t i) { offer<decltype(type)>(op, i); });
  });
}

}  // namespace jacfast::cpu
