// What norm_first and norm_second sum over samples, for the gradients of a weight and its bias.
#pragma once

#include "norm.cuh"

namespace jacfast::cuda {

// A thread's sums for the gradients of a weight and its bias.
template <typename A>
struct ParameterSums {
  ThreadSum<A> weight{}, bias{};

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
