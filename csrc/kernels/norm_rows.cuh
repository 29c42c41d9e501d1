// The derivatives that have the shape of x.
#pragma once

#include "norm_moments.cuh"

namespace jacfast::cuda {

// Team i takes row i. Floor: the bytes of x, g, u and of the results.
template <bool SECOND, typename T, int VEC>
__global__ __launch_bounds__(JACFAST_MAX_THREADS,
                             NORM_BLOCKS<SECOND, T, VEC>) void norm_rows(const Norm op) {
  using A = Acc<T>;
  const int64_t row = item();
  if (row >= op.rows()) return;
  const auto [means, products] = moments_of<SECOND, T, VEC>(op, row);
  const double each = 1 / static_cast<double>(op.row_size());
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
  for_row<SECOND, T, VEC>(op, row, [&](const auto& packs, auto size, const auto& at) {
    Pack<T, size.value> of_x, of_g;
#pragma unroll
    for (int e = 0; e < size.value; ++e) {
      const A x = wide(packs.x.at[e]) - mean - rest;
      A sum = by_h * (at.weigh(wide(packs.g.at[e]), e) - mean_h) + by_x * x;
      if constexpr (SECOND) {
        const A u = wide(packs.u.at[e]) - mean_u, along = rstd * u + along_x * x;
        sum += by_u * u;
        narrow(at.weigh(along, e), of_g.at[e]);
      }
      narrow(sum, of_x.at[e]);
    }
    store<size.value>(static_cast<T*>(op.of_x) + at.begin, of_x);
    if constexpr (SECOND) store<size.value>(static_cast<T*>(op.of_g) + at.begin, of_g);
  });
}

}  // namespace jacfast::cuda
