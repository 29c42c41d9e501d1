// attention_second on the CPU: a task for each row, which stays in cache for its three sweeps.
#include "../ops/attention_second.h"

#include <algorithm>
#include <limits>

#include "exponential.h"
#include "parallel.h"
#include "vector.h"

namespace jacfast::cpu {
namespace {

template <typename T>
JACFAST_CLONES T largest(const T* x, const int64_t size) {
  T lanes[LANES];
  std::fill_n(lanes, LANES, -std::numeric_limits<T>::infinity());
  const int64_t whole = size - size % LANES;
  for (int64_t d = 0; d < whole; d += LANES)
    for (int64_t l = 0; l < LANES; ++l) lanes[l] = x[d + l] > lanes[l] ? x[d + l] : lanes[l];
  for (int64_t d = whole; d < size; ++d)
    lanes[d - whole] = x[d] > lanes[d - whole] ? x[d] : lanes[d - whole];
  return *std::max_element(lanes, lanes + LANES);
}

// A row: scores, dP, E and F, then P, dS, W and G.
template <typename T>
struct Row {
  T *scores, *dp, *e, *f;
};

// Put u = exp(scores - most), in proportion to P, in the place of the scores.
template <typename T>
JACFAST_CLONES void weigh(T* scores, const T most, const int64_t size) {
  for (int64_t d = 0; d < size; ++d) scores[d] = exp_down(scores[d] - most);
}

// Sums over a row.
struct Sums {
  double u, dp, e, e_dp, f;
};

// One after another, out of the cache: so each of them keeps the processor's adders busy.
template <typename T>
JACFAST_CLONES Sums sums_of(const Row<T>& row, const int64_t size) {
  const T *u = row.scores, *dp = row.dp, *e = row.e, *f = row.f;
  const auto wide = [](const T value) { return static_cast<double>(value); };
  return {lane_sum(size, [=](const int64_t d) { return wide(u[d]); }),
          lane_sum(size, [=](const int64_t d) { return wide(u[d]) * dp[d]; }),
          lane_sum(size, [=](const int64_t d) { return wide(u[d]) * e[d]; }),
          lane_sum(size, [=](const int64_t d) { return wide(u[d]) * dp[d] * e[d]; }),
          lane_sum(size, [=](const int64_t d) { return wide(u[d]) * f[d]; })};
}

template <typename T>
JACFAST_CLONES void write(const Row<T>& row, const Sums& sums, const int64_t size) {
  T* __restrict scores = row.scores, * __restrict dp = row.dp, * __restrict e = row.e, * __restrict f = row.f;
  const double mean_dp = sums.dp / sums.u, mean_e = sums.e / sums.u;
  const T inverse = T(1 / sums.u), of_dp = T(mean_dp), of_e = T(mean_e);
  const T of_g = T(sums.e_dp / sums.u - mean_dp * mean_e + sums.f / sums.u);
  for (int64_t d = 0; d < size; ++d) {
    const T p = scores[d] * inverse, along = dp[d] - of_dp, across = e[d] - of_e;
    scores[d] = p;
    dp[d] = p * along;
    e[d] = p * across;
    f[d] = p * (across * along + f[d] - of_g);
  }
}

template <typename T>
void run(const AttentionSecond& op, const int threads) {
  const int64_t size = op.size, plane = op.rows * size;
  parallel_for(op.rows, 4 * plane, threads, [&](const int64_t i) {
    T* first = static_cast<T*>(op.tile) + i * size;
    const Row<T> row{first, first + plane, first + 2 * plane, first + 3 * plane};
    const T most = largest(row.scores, size);
    if (most == -std::numeric_limits<T>::infinity()) {  // masked whole, or NaN
      const bool nan = std::any_of(row.scores, row.scores + size, [](T s) { return s != s; });
      const T all = nan ? std::numeric_limits<T>::quiet_NaN() : T(0);
      for (T* each : {row.scores, row.dp, row.e, row.f}) std::fill_n(each, size, all);
      return;
    }
    weigh(row.scores, most, size);
    write(row, sums_of(row, size), size);
  });
}

}  // namespace

void attention_second(const AttentionSecond& op, const int threads) {
  op.dtype == Dtype::f64 ? run<double>(op, threads) : run<float>(op, threads);
}

}  // namespace jacfast::cpu
