// norm_first and norm_second on the CPU: a task for a group of a part of the samples, row by row,
// each of which stays in cache for its sweeps. Half types go by way of floats.
#include "../ops/norm.h"

#include <array>
#include <cmath>
#include <type_traits>
#include <vector>

#include "parallel.h"
#include "vector.h"

namespace jacfast::cpu {
namespace {

template <typename From, typename To>
JACFAST_CLONES void convert(const From* __restrict from, const int64_t size, To* __restrict to) {
  for (int64_t d = 0; d < size; ++d) to[d] = static_cast<To>(from[d]);
}

// A row of T as numbers to compute with: itself, or floats in a room of its own.
template <typename T>
class Values {
  static constexpr bool ITSELF = std::is_floating_point_v<T>;
  std::vector<Acc<T>> room;

 public:
  explicit Values(const int64_t size) : room(ITSELF ? 0 : size) {}
  const Acc<T>* read(const void* from, const int64_t begin, const int64_t size) {
    const T* at = static_cast<const T*>(from) + begin;
    if constexpr (ITSELF) return at;
    convert(at, size, room.data());
    return room.data();
  }
  Acc<T>* to_write(void* to, const int64_t begin) {
    if constexpr (ITSELF) return static_cast<T*>(to) + begin;
    return room.data();
  }
  void written(void* to, const int64_t begin, const int64_t size) {
    if constexpr (!ITSELF) convert(room.data(), size, static_cast<T*>(to) + begin);
  }
};

// What is read of a row. h is g times the weight; u is x in the first derivative.
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

// Sums over a row, of the values and of products of what is left of them without their means: of
// x, h, u; of x x, h x, u x, u h. The first derivative has no u.
template <bool SECOND>
struct Sums {
  std::array<double, SECOND ? 3 : 2> values{};
  std::array<double, SECOND ? 4 : 2> products;
};

template <bool SECOND, typename A>
JACFAST_CLONES Sums<SECOND> means_of(const Row<A>& row, const int64_t size, const bool centred) {
  const A *x = row.x, *h = row.h, *u = row.u;
  const auto wide = [](const A value) { return static_cast<double>(value); };
  const auto all = [=](const int64_t d)
                       __attribute__((always_inline)) -> std::array<double, SECOND ? 3 : 2> {
    if constexpr (SECOND)
      return {wide(x[d]), wide(h[d]), wide(u[d])};
    else
      return {wide(x[d]), wide(h[d])};
  };
  Sums<SECOND> means;
  const double each = 1 / static_cast<double>(size);
  if (centred) means.values = lane_sums<SECOND ? 3 : 2>(size, all);
  for (double& mean : means.values) mean *= each;
  const auto values = means.values;
  const auto left = [=](const int64_t d)
                        __attribute__((always_inline)) -> std::array<double, SECOND ? 4 : 2> {
    const double of_x = wide(x[d]) - values[0], of_h = wide(h[d]) - values[1];
    if constexpr (SECOND) {
      const double of_u = wide(u[d]) - values[2];
      return {of_x * of_x, of_h * of_x, of_u * of_x, of_u * of_h};
    } else {
      return {of_x * of_x, of_h * of_x};
    }
  };
  means.products = lane_sums<SECOND ? 4 : 2>(size, left);
  for (double& mean : means.products) mean *= each;
  return means;
}

// The results of a row: of_x = by_x x' + by_h h' + by_u u' of the values without their means, and
// along = rstd u' + along_x x'. The mean of x is in two parts: beside it x can be a difference.
template <typename A>
struct Factors {
  A mean, mean_rest, mean_h, mean_u, rstd;
  A by_x, by_h, by_u, along_x;
  template <bool SECOND>
  explicit Factors(const Sums<SECOND>& means, const double eps)
      : mean(A(means.values[0])),
        mean_rest(A(means.values[0] - mean)),
        mean_h(A(means.values[1])),
        mean_u(0) {
    const double r = 1 / std::sqrt(means.products[0] + eps), b = means.products[1] * r;
    rstd = A(r);
    by_x = A(-r * r * b), by_h = A(r), by_u = 0, along_x = 0;
    if constexpr (SECOND) {
      const double a = means.products[2] * r;
      mean_u = A(means.values[2]);
      by_x = A(-r * r * r * (means.products[3] - 3 * a * b));
      by_h = along_x = A(-r * r * a);
      by_u = A(-r * r * b);
    }
  }
};

// Write the results of `size` entries; the weight is one for all, or one for each.
template <bool SECOND, bool EACH, typename A>
JACFAST_CLONES void write(const Factors<A>& f, const Row<A>& row, const A* __restrict weight,
                          const int64_t size, A* __restrict of_x, A* __restrict of_g) {
  const A *x = row.x, *h = row.h, *u = row.u;
  for (int64_t d = 0; d < size; ++d) {
    const A of_mean = x[d] - f.mean - f.mean_rest, of_h = h[d] - f.mean_h;
    if (!SECOND) {
      of_x[d] = f.by_h * of_h + f.by_x * of_mean;
      continue;
    }
    const A of_u = u[d] - f.mean_u;
    of_x[d] = f.by_u * of_u + f.by_h * of_h + f.by_x * of_mean;
    const A along = f.rstd * of_u + f.along_x * of_mean;
    of_g[d] = weight == nullptr ? along : weight[EACH ? d : 0] * along;
  }
}

// Add what a row has for each channel to sums over samples: of g times the normalised x, and of g;
// in the second derivative, of g times what u is to it.
template <bool SECOND, typename A>
JACFAST_CLONES void collect(const Factors<A>& f, const Row<A>& row, const int64_t channels,
                            const int64_t size, double* __restrict of_weight,
                            double* __restrict of_bias) {
  const auto term = [&](const int64_t d) __attribute__((always_inline)) {
    const A of_mean = row.x[d] - f.mean - f.mean_rest;
    const A normal =
        SECOND ? f.rstd * (row.u[d] - f.mean_u) + f.along_x * of_mean : f.rstd * of_mean;
    return static_cast<double>(row.g[d]) * normal;
  };
  if (size == 1) {
    for (int64_t c = 0; c < channels; ++c) of_weight[c] += term(c);
    if (SECOND) return;
    for (int64_t c = 0; c < channels; ++c) of_bias[c] += static_cast<double>(row.g[c]);
    return;
  }
  for (int64_t c = 0; c < channels; ++c) {
    const int64_t first = c * size;
    of_weight[c] += lane_sum(size, [&](const int64_t s) { return term(first + s); });
    if (SECOND) continue;
    of_bias[c] +=
        lane_sum(size, [&](const int64_t s) { return static_cast<double>(row.g[first + s]); });
  }
}

template <bool SECOND, typename T>
void run_group(const Norm& op, const Span samples, const int64_t group, double* partial) {
  using A = Acc<T>;
  const int64_t channels = op.row_channels(), size = op.row_size();
  const A* weight =
      op.weight == nullptr ? nullptr : static_cast<const A*>(op.weight) + group * channels;
  Values<T> xs(size), gs(size), us(SECOND ? size : 0), of_xs(size), of_gs(SECOND ? size : 0);
  std::vector<A> room(weight == nullptr ? 0 : size);
  for (int64_t i = samples.begin; i < samples.end; ++i) {
    const int64_t begin = (i * op.groups + group) * size;
    Row<A> row{xs.read(op.x, begin, size), gs.read(op.g, begin, size), nullptr, nullptr};
    row.h = weight == nullptr ? row.g : room.data();
    if (weight != nullptr) weigh(row.g, weight, channels, op.size, room.data());
    if (SECOND) row.u = us.read(op.u, begin, size);
    const Factors<A> factors(means_of<SECOND>(row, size, op.centred), op.eps);
    A* of_x = of_xs.to_write(op.of_x, begin);
    A* of_g = SECOND ? of_gs.to_write(op.of_g, begin) : nullptr;
    if (op.size == 1 || weight == nullptr)
      write<SECOND, true>(factors, row, weight, size, of_x, of_g);
    else
      for (int64_t c = 0; c < channels; ++c) {
        const int64_t d = c * op.size;
        const Row<A> channel{row.x + d, row.g + d, row.h + d, SECOND ? row.u + d : nullptr};
        write<SECOND, false>(factors, channel, weight + c, op.size, of_x + d,
                             SECOND ? of_g + d : nullptr);
      }
    of_xs.written(op.of_x, begin, size);
    if (SECOND) of_gs.written(op.of_g, begin, size);
    if (partial != nullptr)
      collect<SECOND>(factors, row, channels, op.size, partial, partial + op.channels);
  }
}

template <bool SECOND, typename T>
void run(const Norm& op, const int threads) {
  const int64_t sums = op.parameters() * op.channels;
  const int64_t work = (SECOND ? 5 : 3) * op.rows() * op.row_size();
  if (op.partial != nullptr) std::fill_n(op.partial, op.parts * sums, 0.0);
  parallel_for(op.parts * op.groups, work, threads, [&](const int64_t task) {
    const int64_t part = task / op.groups, group = task % op.groups;
    double* partial =
        op.partial == nullptr ? nullptr : op.partial + part * sums + group * op.row_channels();
    run_group<SECOND, T>(op, op.part(part), group, partial);
  });
  if (op.partial == nullptr) return;
  for (int64_t part = 1; part < op.parts; ++part)
    for (int64_t s = 0; s < sums; ++s) op.partial[s] += op.partial[part * sums + s];
  convert(op.partial, sums, static_cast<Acc<T>*>(op.of_parameters));
}

}  // namespace

void norm(const Norm& op, const int threads) {
  with_type(op.dtype, [&](auto type) {
    using T = decltype(type);
    op.second() ? run<true, T>(op, threads) : run<false, T>(op, threads);
  });
}

}  // namespace jacfast::cpu
