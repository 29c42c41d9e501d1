// orthonormal_cotangents on the CPU: each task runs Gram-Schmidt on the rows of one sample.
#include "../ops/orthonormal_cotangents.h"

#include <limits>

#include "parallel.h"
#include "vector.h"

namespace jacfast::cpu {
namespace {

template <typename T>
class Sample {
 public:
  Sample(const OrthonormalCotangents& op, const int64_t i)
      : op_(op),
        gaussian_(static_cast<const T*>(op.gaussian) + i * op.rows * op.classes),
        out_(static_cast<T*>(op.out) + i * op.rows * op.classes) {}

  void run() const {
    for (int64_t j = 0; j < op_.rows; ++j) {
      T* row = out_ + j * op_.classes;
      std::copy_n(gaussian_ + j * op_.classes, op_.classes, row);
      // A dependent row gives way to the first unit vector that is not: at most j + 1 are.
      for (int64_t unit = 0; !orthogonalise(row, j) && unit < op_.classes; ++unit) {
        std::fill_n(row, op_.classes, T(0));
        row[unit] = 1;
      }
    }
    const int64_t dim = op_.classes - op_.centred;
    const T scale = static_cast<T>(std::sqrt(double(dim) / double(op_.rows)));
    for (int64_t k = 0; k < op_.rows * op_.classes; ++k) out_[k] *= scale;
  }

 private:
  // Make `row` orthogonal to the j rows before it and of unit length; say whether that went.
  bool orthogonalise(T* row, const int64_t j) const {
    const double before = norm(row);
    const int passes = j > 0 || op_.centred ? 2 : 0;  // twice: once leaves errors of cancellation
    for (int pass = 0; pass < passes; ++pass) {
      if (op_.centred) subtract_mean(row);
      for (int64_t i = 0; i < j; ++i) subtract_projection(row, out_ + i * op_.classes);
    }
    const double after = passes ? norm(row) : before;
    const double floor = 16.0 * op_.classes * std::numeric_limits<T>::epsilon() * before;
    if (!(after > floor) || !std::isfinite(after)) return false;
    for (int64_t k = 0; k < op_.classes; ++k) row[k] = static_cast<T>(row[k] / after);
    return true;
  }

  double norm(const T* row) const { return std::sqrt(sumsq(row, op_.classes)); }

  void subtract_mean(T* row) const {
    double sum = 0;
    for (int64_t k = 0; k < op_.classes; ++k) sum += row[k];
    const double mean = sum / op_.classes;
    for (int64_t k = 0; k < op_.classes; ++k) row[k] = static_cast<T>(row[k] - mean);
  }

  void subtract_projection(T* row, const T* unit) const {
    double dot = 0;
    for (int64_t k = 0; k < op_.classes; ++k) dot += double(row[k]) * unit[k];
    for (int64_t k = 0; k < op_.classes; ++k) row[k] = static_cast<T>(row[k] - dot * unit[k]);
  }

  const OrthonormalCotangents& op_;
  const T* gaussian_;
  T* out_;
};

template <typename T>
void run(const OrthonormalCotangents& op, const int threads) {
  const int64_t work = op.samples * op.rows * op.rows * op.classes;
  parallel_for(op.samples, work, threads, [&](const int64_t i) { Sample<T>(op, i).run(); });
}

}  // namespace

void orthonormal_cotangents(const OrthonormalCotangents& op, const int threads) {
  op.dtype == Dtype::f64 ? run<double>(op, threads) : run<float>(op, threads);
}

}  // namespace jacfast::cpu
