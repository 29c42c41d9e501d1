// norm_first and norm_second on the CPU: a task for a group of a part of the samples, row by row,
// each of which stays in cache for its sweeps. Here is the second derivative.
#include <array>
#include <cmath>
#include <vector>

#include "norm_rows.h"
#include "parallel.h"

namespace jacfast::cpu {
namespace {

// What is read of a row. h is g times the weight.
template <typename A>
struct Row {
  const A *x, *g, *h, *u;
};

// h = g times the weight, which is one for each `size` entries.
template <typename A>
JACFAST_CLONES void weigh(const A* __restrict g, const A* __restrict weight, const int64_t channels,
                          const int64_t size, A* __restrict h) {
  if (size == 1) {
    for (int64_t c = 0; c < channels; ++c) h[c] = g[c] * weight[c];
    return;
  }
  for (int64_t c = 0; c < channels; ++c)
    for (int64_t s = 0; s < size; ++s) h[c * size + s] = g[c * size + s] * weight[c];
}

// Means over a row, of x, h, u, and of products of what is left of them: x x, h x, u x, u h.
struct Means {
  std::array<double, 3> values{};
  std::array<double, 4> products;
};

template <typename A>
JACFAST_CLONES Means means_of(const Row<A>& row, const int64_t size, const bool centred) {
  const A *x = row.x, *h = row.h, *u = row.u;
  const auto wide = [](const A value) { return static_cast<double>(value); };
  const auto all = [=](const int64_t d) __attribute__((always_inline)) -> std::array<double, 3> {
    return {wide(x[d]), wide(h[d]), wide(u[d])};
  };
  Means means;
  const double each = 1 / static_cast<double>(size);
  if (centred) means.values = lane_sums<3>(size, all);
  for (double& mean : means.values) mean *= each;
  const auto values = means.values;
  const auto left = [=](const int64_t d) __attribute__((always_inline)) -> std::array<double, 4> {
    const double of_x = wide(x[d]) - values[0], of_h = wide(h[d]) - values[1];
    const double of_u = wide(u[d]) - values[2];
    return {of_x * of_x, of_h * of_x, of_u * of_x, of_u * of_h};
  };
  means.products = lane_sums<4>(size, left);
  for (double& mean : means.products) mean *= each;
  return means;
}

// The results of a row: of_x = by_x x' + by_h h' + by_u u' of the values without their means, and
// along = rstd u' + along_x x'. The mean of x is in two parts: beside it x can be a difference.
template <typename A>
struct Factors {
  A mean, mean_rest, mean_h, mean_u, rstd;
  A by_x, by_h, by_u, along_x;
  explicit Factors(const Means& means, const double eps)
      : mean(A(means.values[0])),
        mean_rest(A(means.values[0] - mean)),
        mean_h(A(means.values[1])),
        mean_u(A(means.values[2])) {
    const auto& [x_x, h_x, u_x, u_h] = means.products;
    const double r = 1 / std::sqrt(x_x + eps), a = u_x * r, b = h_x * r;
    rstd = A(r);
    by_x = A(-r * r * r * (u_h - 3 * a * b));
    by_h = along_x = A(-r * r * a);
    by_u = A(-r * r * b);
  }
};

// Write the results of `size` entries; the weight is one for all, or one for each.
template <bool EACH, typename A>
JACFAST_CLONES void write(const Factors<A>& f, const Row<A>& row, const A* __restrict weight,
                          const int64_t size, A* __restrict of_x, A* __restrict of_g) {
  const A *x = row.x, *h = row.h, *u = row.u;
  for (int64_t d = 0; d < size; ++d) {
    const A of_mean = x[d] - f.mean - f.mean_rest, of_h = h[d] - f.mean_h;
    const A of_u = u[d] - f.mean_u;
    of_x[d] = f.by_u * of_u + f.by_h * of_h + f.by_x * of_mean;
    const A along = f.rstd * of_u + f.along_x * of_mean;
    of_g[d] = weight == nullptr ? along : weight[EACH ? d : 0] * along;
  }
}

// Add what a row has for each channel to sums over samples: of g times what u is to it.
template <typename A>
JACFAST_CLONES void collect(const Factors<A>& f, const Row<A>& row, const int64_t channels,
                            const int64_t size, double* __restrict of_weight) {
  const auto term = [&](const int64_t d) __attribute__((always_inline)) {
    const A of_mean = row.x[d] - f.mean - f.mean_rest;
    const A along = f.rstd * (row.u[d] - f.mean_u) + f.along_x * of_mean;
    return static_cast<double>(row.g[d]) * along;
  };
  if (size == 1) {
    for (int64_t c = 0; c < channels; ++c) of_weight[c] += term(c);
    return;
  }
  for (int64_t c = 0; c < channels; ++c) {
    const int64_t first = c * size;
    of_weight[c] += lane_sum(size, [&](const int64_t s) { return term(first + s); });
  }
}

template <typename T>
void second_of_group(const Norm& op, const Span samples, const int64_t group, double* partial) {
  using A = Acc<T>;
  const int64_t channels = op.row_channels(), size = op.row_size();
  const A* weight =
      op.weight == nullptr ? nullptr : static_cast<const A*>(op.weight) + group * channels;
  Values<T> xs(size), gs(size), us(size), of_xs(size), of_gs(size);
  std::vector<A> room(weight == nullptr ? 0 : size);
  for (int64_t i = samples.begin; i < samples.end; ++i) {
    const int64_t begin = (i * op.groups + group) * size;
    const A* g = gs.read(op.g, begin);
    if (weight != nullptr) weigh(g, weight, channels, op.size, room.data());
    const Row<A> row{xs.read(op.x, begin), g, weight == nullptr ? g : room.data(),
                     us.read(op.u, begin)};
    const Factors<A> factors(means_of(row, size, op.centred), op.eps);
    A *of_x = of_xs.to_write(op.of_x, begin), *of_g = of_gs.to_write(op.of_g, begin);
    if (op.size == 1 || weight == nullptr)
      write<true>(factors, row, weight, size, of_x, of_g);
    else
      for (int64_t c = 0; c < channels; ++c) {
        const int64_t d = c * op.size;
        const Row<A> channel{row.x + d, row.g + d, row.h + d, row.u + d};
        write<false>(factors, channel, weight + c, op.size, of_x + d, of_g + d);
      }
    of_xs.written(op.of_x, begin);
    of_gs.written(op.of_g, begin);
    if (partial != nullptr) collect(factors, row, channels, op.size, partial);
  }
}

template <typename T>
void run(const Norm& op, const int threads) {
  const int64_t sums = op.parameters() * op.channels;
  const int64_t work = (op.second() ? 5 : 3) * op.rows() * op.row_size();
  if (op.partial != nullptr) std::fill_n(op.partial, op.parts * sums, 0.0);
  parallel_for(op.parts * op.groups, work, threads, [&](const int64_t task) {
    const int64_t part = task / op.groups, group = task % op.groups;
    double* partial =
        op.partial == nullptr ? nullptr : op.partial + part * sums + group * op.row_channels();
    (op.second() ? second_of_group<T> : first_of_group<T>)(op, op.part(part), group, partial);
  });
  if (op.partial == nullptr) return;
  for (int64_t part = 1; part < op.parts; ++part)
    for (int64_t s = 0; s < sums; ++s) op.partial[s] += op.partial[part * sums + s];
  convert(op.partial, sums, static_cast<Acc<T>*>(op.of_parameters));
}

}  // namespace

void norm(const Norm& op, const int threads) {
  with_type(op.dtype, [&](auto type) { run<decltype(type)>(op, threads); });
}

}  // namespace jacfast::cpu
