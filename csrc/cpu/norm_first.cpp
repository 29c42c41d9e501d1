// The first derivative of normalisations on the CPU: one sweep for the sums of a row, and one that
// writes. Sums of products are taken of differences to the row's own first entry, which is at most
// sqrt(size) deviations off its mean: so one sweep loses no more digits than two.
#include <algorithm>
#include <array>
#include <cmath>

#include "norm_rows.h"

namespace jacfast::cpu {
namespace {

constexpr int64_t ROWS = 4;            // that are added up before they go to the sums over samples
constexpr int64_t LANES_OF_FOUR = 16;  // of four sums, which then stay in registers

// Sums of x', x' x', h, h x', with x' = x less a number.
using Sums = std::array<double, 4>;

// h is g, or g times a weight for each entry.
template <bool WEIGHTED, typename A>
JACFAST_CLONES Sums sums_of(const A* x, const A* g, const A* weight, const A less,
                            const int64_t size) {
  return lane_sums<4, LANES_OF_FOUR>(
      size, [=](const int64_t d) __attribute__((always_inline)) -> Sums {
        const double left = x[d] - less, h = WEIGHTED ? g[d] * weight[d] : g[d];
        return {left, left * left, h, h * left};
      });
}

// of_x = by_h h' + by_x x' of the values without their means. The mean of x is in two parts: beside
// it x can be a difference.
template <typename A>
struct Factors {
  A mean, mean_rest, mean_h, by_h, by_x;
  double rstd, left;  // left: the mean of x'
  Factors() = default;
  Factors(const Sums& sums, const A less, const Norm& op) {
    const double each = 1 / static_cast<double>(op.row_size());
    left = op.centred ? sums[0] * each : 0;
    const double of_h = op.centred ? sums[2] * each : 0, of_x = less + left;
    // of squares, it is nothing below zero that roundings have left; NaN stays
    const double variance = sums[1] * each - left * left;
    rstd = 1 / std::sqrt((variance < 0 ? 0 : variance) + op.eps);
    mean = A(of_x), mean_rest = A(of_x - mean), mean_h = A(of_h);
    by_h = A(rstd), by_x = A(-rstd * rstd * rstd * (sums[3] * each - left * of_h));
  }
};

template <typename A>
struct Row {
  const A *x, *g;
  A* of_x;
};

// Write the results of COUNT rows of entries, each of which has a weight, and add what they have
// for weight and bias to sums over samples, if there are any.
template <int64_t COUNT, bool WEIGHTED, bool PARAMETERS, typename A>
JACFAST_CLONES void write_rows(const Factors<A>* f, const Row<A>* rows, const A* __restrict weight,
                               const int64_t size, double* __restrict of_weight,
                               double* __restrict of_bias) {
  std::array<Row<A>, COUNT> row;
  std::array<A, COUNT> by;
  for (int64_t r = 0; r < COUNT; ++r) row[r] = rows[r], by[r] = A(f[r].rstd);
#pragma GCC ivdep
  for (int64_t d = 0; d < size; ++d) {
    double sum = 0, sum_g = 0;
#pragma GCC unroll 4
    for (int64_t r = 0; r < COUNT; ++r) {
      const A g = row[r].g[d], of_mean = row[r].x[d] - f[r].mean - f[r].mean_rest;
      const A h = WEIGHTED ? g * weight[d] : g;
      row[r].of_x[d] = f[r].by_h * (h - f[r].mean_h) + f[r].by_x * of_mean;
      if (PARAMETERS) sum += g * (by[r] * of_mean), sum_g += g;
    }
    if (PARAMETERS) of_weight[d] += sum, of_bias[d] += sum_g;
  }
}

template <bool WEIGHTED, typename A>
JACFAST_CLONES void write(const Factors<A>& f, const Row<A>& row, const A weight,
                          const int64_t size) {
  const A* __restrict x = row.x, * __restrict g = row.g;
  A* __restrict of_x = row.of_x;
  for (int64_t d = 0; d < size; ++d) {
    const A of_mean = x[d] - f.mean - f.mean_rest, h = WEIGHTED ? g[d] * weight : g[d];
    of_x[d] = f.by_h * (h - f.mean_h) + f.by_x * of_mean;
  }
}

// Rows of entries, of COUNT samples from the first one on.
template <int64_t COUNT, typename T>
void rows_of_entries(const Norm& op, const int64_t first, const int64_t group, Values<T>& xs,
                     Values<T>& gs, Values<T>& of_xs, const Acc<T>* weight, double* partial) {
  using A = Acc<T>;
  const int64_t size = op.row_size(), step = op.groups * size, begin = first * step + group * size;
  std::array<Row<A>, COUNT> rows;
  std::array<Factors<A>, COUNT> factors;
  for (int64_t r = 0; r < COUNT; ++r) {
    const int64_t at = begin + r * step;
    rows[r] = {xs.read(op.x, at, r), gs.read(op.g, at, r), of_xs.to_write(op.of_x, at, r)};
    const A less = op.centred ? rows[r].x[0] : A(0);
    const auto sums = weight == nullptr ? sums_of<false, A> : sums_of<true, A>;
    factors[r] = Factors<A>(sums(rows[r].x, rows[r].g, weight, less, size), less, op);
  }
  const auto write = weight == nullptr ? (partial == nullptr ? write_rows<COUNT, false, false, A>
                                                             : write_rows<COUNT, false, true, A>)
                                       : (partial == nullptr ? write_rows<COUNT, true, false, A>
                                                             : write_rows<COUNT, true, true, A>);
  write(factors.data(), rows.data(), weight, size, partial,
        partial == nullptr ? nullptr : partial + op.channels);
  for (int64_t r = 0; r < COUNT; ++r) of_xs.written(op.of_x, begin + r * step, r);
}

// The row of a sample, channel by channel: what weight and bias get are sums that it needs as well.
template <typename T>
void row_of_channels(const Norm& op, const int64_t sample, const int64_t group, Values<T>& xs,
                     Values<T>& gs, Values<T>& of_xs, const Acc<T>* weight, Sums* of_channels,
                     double* partial) {
  using A = Acc<T>;
  const int64_t begin = (sample * op.groups + group) * op.row_size();
  const Row<A> row{xs.read(op.x, begin), gs.read(op.g, begin), of_xs.to_write(op.of_x, begin)};
  const A less = op.centred ? row.x[0] : A(0);
  Sums all{};
  for (int64_t c = 0; c < op.row_channels(); ++c) {
    const int64_t d = c * op.size;
    Sums& own = of_channels[c];
    own = sums_of<false, A>(row.x + d, row.g + d, nullptr, less, op.size);
    const double by = weight == nullptr ? 1 : weight[c];
    all[0] += own[0], all[1] += own[1], all[2] += by * own[2], all[3] += by * own[3];
  }
  const Factors<A> factors(all, less, op);
  for (int64_t c = 0; c < op.row_channels(); ++c) {
    const int64_t d = c * op.size;
    const Row<A> channel{row.x + d, row.g + d, row.of_x + d};
    if (weight == nullptr)
      write<false>(factors, channel, A(1), op.size);
    else
      write<true>(factors, channel, weight[c], op.size);
    if (partial == nullptr) continue;
    const auto& [_, __, sum_g, sum_g_x] = of_channels[c];
    partial[c] += factors.rstd * (sum_g_x - factors.left * sum_g);
    partial[op.channels + c] += sum_g;
  }
  of_xs.written(op.of_x, begin);
}

}  // namespace

template <typename T>
void first_of_group(const Norm& op, const Span samples, const int64_t group, double* partial) {
  using A = Acc<T>;
  const A* weight =
      op.weight == nullptr ? nullptr : static_cast<const A*>(op.weight) + group * op.row_channels();
  const int rows = op.size == 1 ? ROWS : 1;
  Values<T> xs(op.row_size(), rows), gs(op.row_size(), rows), of_xs(op.row_size(), rows);
  int64_t i = samples.begin;
  if (op.size == 1) {
    for (; i + ROWS <= samples.end; i += ROWS)
      rows_of_entries<ROWS>(op, i, group, xs, gs, of_xs, weight, partial);
    for (; i < samples.end; ++i) rows_of_entries<1>(op, i, group, xs, gs, of_xs, weight, partial);
    return;
  }
  std::vector<Sums> of_channels(op.row_channels());
  for (; i < samples.end; ++i)
    row_of_channels(op, i, group, xs, gs, of_xs, weight, of_channels.data(), partial);
}

template void first_of_group<float>(const Norm&, Span, int64_t, double*);
template void first_of_group<double>(const Norm&, Span, int64_t, double*);
template void first_of_group<Half>(const Norm&, Span, int64_t, double*);
template void first_of_group<BFloat16>(const Norm&, Span, int64_t, double*);

}  // namespace jacfast::cpu
