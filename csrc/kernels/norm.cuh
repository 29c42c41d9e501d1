// norm_first and norm_second on the GPU: a team takes a row, for what has the shape of x; what is
// summed over samples has kernels of its own, which read the tensors a second time. Floor of the
// op: 3 N C S entries in the first derivative, 5 in the second. Predicted for an H100, float32: 20
// bytes an entry in the second, so 76 us for [16640, 768] at 3.35 TB/s, and 12 more, 46 us, where
// the weight's gradient is wanted; the row's three sweeps find it in the first-level cache. About
// 20 double-precision operations an entry, 8 us.
#pragma once

#include "../ops/norm.h"
#include "sums.cuh"

namespace jacfast::cuda {

// Blocks on a multiprocessor at least: doubles take registers, and so do rows entry by entry.
template <typename T, int VEC>
constexpr int NORM_BLOCKS = sizeof(T) == 8 || VEC == 1 ? 1 : 2;

template <typename T>
__device__ inline const T* input(const void* from, const int64_t begin) {
  return static_cast<const T*>(from) + begin;
}

// One pack of each tensor that is read; in the first derivative u is not.
template <typename T, int VEC>
struct NormPacks {
  Pack<T, VEC> x, g, u;
};

// The entries of a row that have one weight, or one weight each (size = 1).
template <typename T>
struct Stretch {
  int64_t begin;  // in the tensors
  const Acc<T>* weight;
  int each;  // 1: one each
  __device__ Acc<T> weigh(const T g, const int64_t d) const {
    return weight == nullptr ? wide(g) : wide(g) * weight[each * d];
  }
};

// Give this thread its share of row `row`: use(d, packs, size, stretch), d counted in the stretch.
template <bool SECOND, typename T, int VEC, typename Use>
__device__ inline void for_row(const Norm& op, const int64_t row, Use&& use) {
  const int64_t channels = op.row_channels(), length = op.size == 1 ? channels : op.size;
  const int64_t stretches = op.size == 1 ? 1 : channels;
  Stretch<T> at{row * op.row_size(), static_cast<const Acc<T>*>(op.weight), op.size == 1};
  if (at.weight != nullptr) at.weight += row % op.groups * channels;
  for (int64_t c = 0; c < stretches; ++c, at.begin += length) {
    for_packs<VEC, 1>(
        input<T>(op.x, at.begin), 0, length,
        [&](const int64_t d, auto size) {
          NormPacks<T, size.value> packs;
          packs.x = load<size.value>(input<T>(op.x, at.begin + d));
          packs.g = load<size.value>(input<T>(op.g, at.begin + d));
          if constexpr (SECOND) packs.u = load<size.value>(input<T>(op.u, at.begin + d));
          return packs;
        },
        [&](const int64_t d, const auto& packs, auto size) { use(d, packs, size, at); });
    if (at.weight != nullptr) ++at.weight;
  }
}

// What sums over samples know of a row. The means are in two parts, as beside them entries can be
// differences.
template <typename A>
struct alignas(16) NormStats {
  A mean, rest;      // of x
  A mean_u, rest_u;  // of u, in the second derivative
  A rstd;            // 1 / its deviation
  A along_x;         // what the derivative in the weight has of x - mean, likewise
};

template <typename A>
__device__ inline NormStats<A>& stats_of(const Norm& op, const int64_t row) {
  static_assert(sizeof(NormStats<A>) <= NORM_STATS);
  return static_cast<NormStats<A>*>(op.stats)[row];
}

// Team i takes row i. Floor: the bytes of x, g, u and of the results.
template <bool SECOND, typename T, int VEC>
__global__ __launch_bounds__(JACFAST_MAX_THREADS,
                             NORM_BLOCKS<T, VEC>) void norm_rows(const Norm op) {
  using A = Acc<T>;
  const int64_t row = item();
  if (row >= op.rows()) return;
  const double each = 1 / static_cast<double>(op.row_size());

  Sums<SECOND ? 3 : 2> means;  // of x, h = g times the weight, u
  if (op.centred) {
    for_row<SECOND, T, VEC>(op, row, [&](int64_t d, const auto& packs, auto size, const auto& at) {
#pragma unroll
      for (int e = 0; e < size.value; ++e) {
        means.at[0] += wide(packs.x.at[e]);
        means.at[1] += at.weigh(packs.g.at[e], d + e);
        if constexpr (SECOND) means.at[2] += wide(packs.u.at[e]);
      }
    });
    means = team_sum(means);
#pragma unroll
    for (double& mean : means.at) mean *= each;
  }
  Sums<SECOND ? 4 : 2> products;  // of x x, h x, u x, u h, without their means
  for_row<SECOND, T, VEC>(op, row, [&](int64_t d, const auto& packs, auto size, const auto& at) {
#pragma unroll
    for (int e = 0; e < size.value; ++e) {
      const double x = wide(packs.x.at[e]) - means.at[0];
      const double h = at.weigh(packs.g.at[e], d + e) - means.at[1];
      products.at[0] += x * x;
      products.at[1] += h * x;
      if constexpr (SECOND) {
        const double u = wide(packs.u.at[e]) - means.at[2];
        products.at[2] += u * x;
        products.at[3] += u * h;
      }
    }
  });
  products = team_sum(products);

  const double r = 1 / sqrt(products.at[0] * each + op.eps), b = products.at[1] * each * r;
  // The mean of x is in two parts: beside it x can be a difference.
  const A rstd = A(r), mean = A(means.at[0]), rest = A(means.at[0] - mean);
  const A mean_h = A(means.at[1]);
  A by_x = A(-r * r * b), by_h = rstd, by_u = 0, mean_u = 0, along_x = 0;
  if constexpr (SECOND) {
    const double a = products.at[2] * each * r;
    by_x = A(-r * r * r * (products.at[3] * each - 3 * a * b));
    by_h = along_x = A(-r * r * a);
    by_u = A(-r * r * b);
    mean_u = A(means.at[2]);
  }
  if (op.stats != nullptr && threadIdx.x == 0) {
    const double of_u = SECOND ? means.at[SECOND ? 2 : 0] : 0;
    stats_of<A>(op, row) = {mean, rest, A(of_u), A(of_u - A(of_u)), rstd, along_x};
  }
  for_row<SECOND, T, VEC>(op, row, [&](int64_t d, const auto& packs, auto size, const auto& at) {
    Pack<T, size.value> of_x, of_g;
#pragma unroll
    for (int e = 0; e < size.value; ++e) {
      const A x = wide(packs.x.at[e]) - mean - rest;
      A sum = by_h * (at.weigh(packs.g.at[e], d + e) - mean_h) + by_x * x;
      if constexpr (SECOND) {
        const A u = wide(packs.u.at[e]) - mean_u, along = rstd * u + along_x * x;
        sum += by_u * u;
        narrow(at.weight == nullptr ? along : at.weight[at.each * (d + e)] * along, of_g.at[e]);
      }
      narrow(sum, of_x.at[e]);
    }
    store<size.value>(static_cast<T*>(op.of_x) + at.begin + d, of_x);
    if constexpr (SECOND) store<size.value>(static_cast<T*>(op.of_g) + at.begin + d, of_g);
  });
}

// A thread's sums for the gradients of a weight and its bias.
template <typename A>
struct ParameterSums {
  std::conditional_t<sizeof(A) == 4, FloatSum, double> weight{}, bias{};

  __device__ Sums<2> total() const {
    if constexpr (sizeof(A) == 4) {
      return {{finite_or_high(weight), finite_or_high(bias)}};
    } else {
      return {{weight, bias}};
    }
  }
  // Beside a sum that is infinite, what was rounded off is no number.
  static __device__ double finite_or_high(const FloatSum& sum) {
    return isfinite(sum.low) ? sum.total() : double{sum.high};
  }
};

// An entry without the mean, whose rest is zero in float64.
template <typename A>
__device__ inline A without(const A entry, const A mean, const A rest) {
  if constexpr (sizeof(A) == 4) return entry - mean - rest;
  return entry - mean;
}

// Add what entry i of a row adds, to the bias in the first derivative alone.
template <bool SECOND, typename T>
__device__ inline void add(const Norm& op, const int64_t row, const int64_t i,
                           ParameterSums<Acc<T>>& sums) {
  using A = Acc<T>;
  const NormStats<A> stats = stats_of<A>(op, row);
  const A g = wide(*input<T>(op.g, i));
  const A x = without<A>(wide(*input<T>(op.x, i)), stats.mean, stats.rest);
  if constexpr (SECOND) {
    const A u = without<A>(wide(*input<T>(op.u, i)), stats.mean_u, stats.rest_u);
    sums.weight += g * (stats.rstd * u + stats.along_x * x);
  } else {
    sums.weight += g * (stats.rstd * x);
    sums.bias += g;
  }
}

// Keep the sums of a channel over a part of the samples.
template <bool SECOND>
__device__ inline void keep(const Norm& op, const int64_t part, const int64_t c,
                            const Sums<2>& sums) {
  double* const partial = op.partial + part * op.parameters() * op.channels + c;
  partial[0] = sums.at[0];
  if constexpr (!SECOND) partial[op.channels] = sums.at[1];
}

// How many teams, each of a thread for every item, cover so many items; and the item of a thread.
__device__ inline int64_t tiles(const int64_t items) {
  return (items + blockDim.x - 1) / blockDim.x;
}
__device__ inline int64_t in_tile(const int64_t tile) { return tile * blockDim.x + threadIdx.x; }

// For size = 1: a thread takes a channel of a part. Floor: the bytes of x, g, u.
template <bool SECOND, typename T>
__global__ __launch_bounds__(JACFAST_MAX_THREADS, 2) void norm_columns(const Norm op) {
  const int64_t part = item() / tiles(op.channels), c = in_tile(item() % tiles(op.channels));
  if (part >= op.parts || c >= op.channels) return;
  const Span samples = op.part(part);
  const int64_t group = c / op.row_channels();
  ParameterSums<Acc<T>> sums;
  for (int64_t i = samples.begin; i < samples.end; ++i)
    add<SECOND, T>(op, i * op.groups + group, i * op.channels + c, sums);
  keep<SECOND>(op, part, c, sums.total());
}

// Else: a team takes a channel of a part. Floor: the same.
template <bool SECOND, typename T>
__global__ __launch_bounds__(JACFAST_MAX_THREADS, 2) void norm_channels(const Norm op) {
  const int64_t part = item() / op.channels, c = item() % op.channels;
  if (part >= op.parts) return;
  const Span samples = op.part(part);
  const int64_t group = c / op.row_channels();
  ParameterSums<Acc<T>> sums;
  for (int64_t i = samples.begin; i < samples.end; ++i)
#pragma unroll 4
    for (int64_t s = threadIdx.x; s < op.size; s += blockDim.x)
      add<SECOND, T>(op, i * op.groups + group, (i * op.channels + c) * op.size + s, sums);
  const Sums<2> total = team_sum(sums.total());
  if (threadIdx.x == 0) keep<SECOND>(op, part, c, total);
}

// A thread joins the parts of a gradient's entry. Floor: 8 bytes a part.
template <typename A>
__global__ __launch_bounds__(JACFAST_MAX_THREADS, 2) void norm_join(const Norm op) {
  const int64_t entries = op.parameters() * op.channels, entry = in_tile(item());
  if (entry >= entries) return;
  double sum = 0;
  for (int64_t part = 0; part < op.parts; ++part) sum += op.partial[part * entries + entry];
  static_cast<A*>(op.of_parameters)[entry] = static_cast<A>(sum);
}

}  // namespace jacfast::cuda
