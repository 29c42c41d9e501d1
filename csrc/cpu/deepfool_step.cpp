// deepfool_step on the CPU: one task per sample while its rows are in cache, or, for few samples,
// one per row and then one per slice of r.
#include "../ops/deepfool_step.h"

#include "deepfool.h"
#include "parallel.h"

namespace jacfast::cpu {
namespace {

template <typename T>
JACFAST_CLONES double sumsq_difference(const T* a, const T* b, const int64_t size) {
  return lane_sum(size, [a, b](const int64_t d) {
    const double w = wide(a[d]) - wide(b[d]);
    return w * w;
  });
}

template <typename T>
JACFAST_CLONES void write_step(T* r, const T* a, const T* b, const Acc<T> inverse,
                               const Acc<T> length, const int64_t size) {
  for (int64_t d = 0; d < size; ++d)  // two factors: length / norm alone may overflow
    r[d] = static_cast<T>((wide(a[d]) - wide(b[d])) * inverse * length);
}

template <typename T>
class Step {
 public:
  explicit Step(const DeepFoolStep& op)
      : op_(op), rows_(static_cast<const T*>(op.rows)), r_(static_cast<T*>(op.r)) {}

  void run(const int threads) const {
    const int64_t work = op_.samples * op_.classes * op_.size;
    if (op_.samples >= 2 * threads) {
      parallel_for(op_.samples, work, threads, [&](const int64_t i) {
        for (int64_t k = 0; k < op_.classes; ++k) measure(i, k);
        choose(i);
        write(i, 0, op_.size);
      });
      return;
    }
    parallel_for(op_.samples * op_.classes, work, threads,
                 [&](const int64_t task) { measure(task / op_.classes, task % op_.classes); });
    for (int64_t i = 0; i < op_.samples; ++i) choose(i);
    const int64_t slices = (op_.size + GRAIN - 1) / GRAIN;
    parallel_for(op_.samples * slices, op_.samples * op_.size, threads, [&](const int64_t task) {
      const int64_t begin = task % slices * GRAIN;
      write(task / slices, begin, std::min(begin + GRAIN, op_.size));
    });
  }

 private:
  const T* row(const int64_t i, const int64_t k) const {
    return rows_ + i * op_.sample_stride + k * op_.class_stride;
  }
  bool inside(const int64_t k) const { return k >= 0 && k < op_.classes; }

  void measure(const int64_t i, const int64_t k) const {
    const int64_t origin = op_.origin[i];
    const bool skip = k == origin || !inside(origin);
    op_.sumsq[i * op_.classes + k] =
        skip ? 0 : sumsq_difference(row(i, k), row(i, origin), op_.size);
  }

  void choose(const int64_t i) const {
    const T* z = static_cast<const T*>(op_.logits) + i * op_.classes;
    Acc<T> best = std::numeric_limits<Acc<T>>::infinity();
    int64_t winner = -1;
    for (int64_t k = 0; k < op_.classes; ++k) {
      const double norm = std::sqrt(op_.sumsq[i * op_.classes + k]);
      if (!usable<Acc<T>>(norm)) continue;  // the origin, too: its sum is 0
      const Acc<T> distance = distance_to(wide(z[k]) - wide(z[op_.origin[i]]), norm);
      if (distance < best) best = distance, winner = k;
    }
    op_.winner[i] = winner;
    static_cast<Acc<T>*>(op_.distance)[i] = best;
  }

  void write(const int64_t i, const int64_t begin, const int64_t end) const {
    T* r = r_ + i * op_.size;
    const int64_t winner = op_.winner[i];
    if (winner < 0) {
      std::fill(r + begin, r + end, T(0.0f));
      return;
    }
    const double norm = std::sqrt(op_.sumsq[i * op_.classes + winner]);
    const double length = static_cast<Acc<T>*>(op_.distance)[i] + op_.floor;
    write_step(r + begin, row(i, winner) + begin, row(i, op_.origin[i]) + begin,
               static_cast<Acc<T>>(1 / norm), static_cast<Acc<T>>(length), end - begin);
  }

  const DeepFoolStep& op_;
  const T* rows_;
  T* r_;
};

}  // namespace

void deepfool_step(const DeepFoolStep& op, const int threads) {
  with_type(op.dtype, [&](auto type) { Step<decltype(type)>(op).run(threads); });
}

}  // namespace jacfast::cpu
