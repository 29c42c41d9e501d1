// The CPU twins without torch, against plain loops in double; meant to run under the sanitizers
// too. The digest of all results is the same for every compiler, machine and number of threads.
#include <cinttypes>
#include <cmath>
#include <cstdio>
#include <limits>
#include <utility>
#include <vector>

#include "ops/activation.h"
#include "ops/attention_second.h"
#include "ops/deepfool_candidate.h"
#include "ops/deepfool_step.h"
#include "ops/max_pool.h"
#include "ops/norm.h"
#include "ops/orthonormal_cotangents.h"
#include "ops/row_norm.h"
#include "split.h"
#include "twins.h"

namespace {

using namespace jacfast;

uint64_t digest = 0xcbf29ce484222325u;  // FNV-1a

template <typename T>
void digest_bytes(const std::vector<T>& values) {
  const auto* bytes = reinterpret_cast<const unsigned char*>(values.data());
  for (size_t i = 0; i < values.size() * sizeof(T); ++i)
    digest = (digest ^ bytes[i]) * 0x100000001b3u;
}

void test_row_norm(const int64_t rows, const int64_t size, const int threads) {
  const auto g = normal(rows * size, 1);
  const int64_t parts = row_parts(rows, size);
  std::vector<float> value(rows);
  std::vector<int64_t> where(rows), partial_where(rows * parts);
  std::vector<double> partial(rows * parts);
  for (const auto kind : {RowNormKind::sumsq, RowNormKind::sumabs, RowNormKind::maxabs}) {
    cpu::row_norm({kind, Dtype::f32, rows, size, size, g.data(), value.data(),
                   kind == RowNormKind::maxabs ? where.data() : nullptr, parts, partial.data(),
                   partial_where.data()},
                  threads);
    digest_bytes(value);
    for (int64_t row = 0; row < rows; ++row) {
      double want = 0;
      for (int64_t d = 0; d < size; ++d) {
        const double v = std::abs(static_cast<double>(g[row * size + d]));
        want = kind == RowNormKind::maxabs ? std::max(want, v)
                                           : want + (kind == RowNormKind::sumsq ? v * v : v);
      }
      expect_near(value[row], want, 1e-6, "row_norm");
      if (kind == RowNormKind::maxabs)
        expect_near(std::abs(g[row * size + where[row]]), want, 0, "row_norm where");
    }
  }
}

// Not in the digest: where a processor multiplies and adds in one step, that is rounded once.
void test_activation(const int64_t size, const int threads) {
  const auto x = normal(size, 7), g = normal(size, 8), u = normal(size, 9);
  std::vector<float> first(size), of_x(size), of_g(size);
  for (const auto kind : {Smooth::gelu, Smooth::silu, Smooth::elu}) {
    const SmoothParameters<double> p{2, 1.5, 0.5};
    cpu::activation_first({kind, p, Dtype::f32, size, x.data(), g.data(), first.data()}, threads);
    cpu::activation_second(
        {kind, p, Dtype::f32, size, x.data(), g.data(), u.data(), of_x.data(), of_g.data()},
        threads);
    for (int64_t i = 0; i < size; ++i) {
      const double at = x[i], e = std::exp(-at), s = 1 / (1 + e), s1 = s * s * e;
      double slope = s + at * s1, bend = 2 * s1 + at * s1 * (1 - 2 * s);
      if (kind == Smooth::gelu) {
        const double density = std::exp(-0.5 * at * at) / std::sqrt(2 * std::acos(-1.0));
        slope = 0.5 * std::erfc(-at * std::sqrt(0.5)) + at * density;
        bend = (2 - at * at) * density;
      } else if (kind == Smooth::elu) {
        slope = at > 0 ? 1.5 : 1.5 * std::exp(0.5 * at);
        bend = at > 0 ? 0 : 0.75 * std::exp(0.5 * at);
      }
      expect_near(first[i], g[i] * slope, 1e-6, "activation_first");
      expect_near(of_x[i], double{u[i]} * g[i] * bend, 2e-6, "activation_second of x");
      expect_near(of_g[i], u[i] * slope, 1e-6, "activation_second of g");
    }
  }
}

void test_deepfool(const int64_t samples, const int64_t classes, const int64_t size,
                   const int threads) {
  const auto z = normal(samples * classes, 2), rows = normal(samples * classes * size, 3);
  std::vector<int64_t> origin(samples), winner(samples), kept(samples, -1), label(samples);
  for (int64_t i = 0; i < samples; ++i) origin[i] = i % classes;
  const float never = std::numeric_limits<float>::infinity();
  std::vector<float> r(samples * size), distance(samples), nearest(samples, never);
  std::vector<float> norm(samples), w(samples * size), f(samples), best(samples * size);
  const int64_t parts = row_parts(samples, size);
  std::vector<double> sumsq(samples * parts * classes);
  cpu::deepfool_step(
      {Dtype::f32, samples, classes, size, z.data(), rows.data(), classes * size, size,
       origin.data(), 0, r.data(), winner.data(), distance.data(), parts, sumsq.data()},
      threads);
  for (int64_t k = 0; k < classes; ++k) {  // the same, offered one class at a time
    for (int64_t i = 0; i < samples; ++i) {
      label[i] = k;
      f[i] = z[i * classes + k] - z[i * classes + origin[i]];
      for (int64_t d = 0; d < size; ++d)
        w[i * size + d] =
            rows[(i * classes + k) * size + d] - rows[(i * classes + origin[i]) * size + d];
    }
    cpu::deepfool_candidate(
        {Dtype::f32, samples, size, w.data(), size, f.data(), label.data(), best.data(),
         nearest.data(), norm.data(), kept.data(), parts, sumsq.data(), nullptr},
        threads);
  }
  digest_bytes(r), digest_bytes(winner), digest_bytes(distance), digest_bytes(norm);
  for (int64_t i = 0; i < samples; ++i) {
    expect_near(static_cast<double>(winner[i]), static_cast<double>(kept[i]), 0, "winner");
    if (winner[i] < 0) continue;
    expect_near(distance[i], nearest[i], 0, "distance");
    for (int64_t d = 0; d < size; ++d)
      expect_near(r[i * size + d], best[i * size + d] / norm[i] * distance[i], 1e-6, "r");
  }
}

void test_cotangents(const int64_t samples, const int64_t n, const int64_t classes,
                     const bool centred) {
  auto gaussian = normal(samples * n * classes, 4);
  if (n > 1)  // a dependent row in the first sample
    for (int64_t k = 0; k < classes; ++k) gaussian[classes + k] = 2 * gaussian[k];
  std::vector<float> out(gaussian.size());
  cpu::orthonormal_cotangents(
      {Dtype::f32, samples, n, classes, centred, gaussian.data(), out.data()}, 2);
  digest_bytes(out);
  const double scale = static_cast<double>(classes - centred) / static_cast<double>(n);
  for (int64_t i = 0; i < samples; ++i)
    for (int64_t a = 0; a < n; ++a)
      for (int64_t b = 0; b <= a; ++b) {
        double dot = 0;
        for (int64_t k = 0; k < classes; ++k)
          dot += out[(i * n + a) * classes + k] * out[(i * n + b) * classes + k];
        expect_near(dot, a == b ? scale : 0, 1e-5, "orthonormal_cotangents");
      }
}

void test_max_pool(const int64_t planes, const int64_t height, const int64_t width,
                   const int64_t kernel, const int64_t stride, const int threads) {
  const Pooling pool{.dtype = Dtype::f32,
                     .planes = planes,
                     .height = height,
                     .width = width,
                     .kernel_height = kernel,
                     .kernel_width = kernel,
                     .stride_height = stride,
                     .stride_width = stride,
                     .out_height = windows_in(height, kernel, stride),
                     .out_width = windows_in(width, kernel, stride)};
  const int64_t windows = pool.out_height * pool.out_width;
  const auto x = normal(planes * height * width, 5);
  std::vector<float> y(planes * windows), taken(y.size()), sums(x.size()), want(x.size());
  std::vector<uint8_t> choice(y.size());
  cpu::max_pool({pool, true, x.data(), y.data(), choice.data()}, threads);
  cpu::max_pool_gather({pool, x.data(), choice.data(), taken.data()}, threads);
  cpu::max_pool_scatter({pool, y.data(), choice.data(), sums.data()}, threads);
  digest_bytes(y), digest_bytes(choice), digest_bytes(taken), digest_bytes(sums);
  for (int64_t i = 0; i < planes * windows; ++i) {
    const int64_t row = i % windows / pool.out_width * stride, column = i % pool.out_width * stride;
    const int64_t first = (i / windows * height + row) * width + column;
    float best = 0;
    int64_t place = DEAD;
    for (int64_t k = 0; k < kernel * kernel; ++k) {
      const float entry = x[first + k / kernel * width + k % kernel];
      if (entry > best) best = entry, place = k;
    }
    expect_near(y[i], best, 0, "max_pool");
    expect_near(choice[i], static_cast<double>(place), 0, "max_pool choice");
    expect_near(taken[i], best, 0, "max_pool_gather");
    if (place < DEAD) want[first + place / kernel * width + place % kernel] += best;
  }
  for (size_t d = 0; d < want.size(); ++d) expect_near(sums[d], want[d], 0, "max_pool_scatter");
}

// No part of the digest: a compiler may fuse the products and sums of the exponential.
void test_attention_second(const int64_t rows, const int64_t size, const int threads) {
  const auto given = normal(4 * rows * size, 6);
  auto tile = given;
  cpu::attention_second({Dtype::f32, rows, size, tile.data()}, threads);
  const auto at = [&](const auto& of, const int plane, const int64_t row, const int64_t d) {
    return static_cast<double>(of[(plane * rows + row) * size + d]);
  };
  for (int64_t row = 0; row < rows; ++row) {
    double sum = 0, mean_dp = 0, mean_e = 0, mean_g = 0;
    const auto p = [&](const int64_t d) { return std::exp(at(given, 0, row, d)) / sum; };
    const auto along = [&](const int64_t d) { return at(given, 1, row, d) - mean_dp; };
    const auto across = [&](const int64_t d) { return at(given, 2, row, d) - mean_e; };
    const auto g = [&](const int64_t d) { return across(d) * along(d) + at(given, 3, row, d); };
    double total = 0;
    for (int64_t d = 0; d < size; ++d) total += std::exp(at(given, 0, row, d));
    sum = total;
    double of_dp = 0, of_e = 0;
    for (int64_t d = 0; d < size; ++d) of_dp += p(d) * along(d), of_e += p(d) * across(d);
    mean_dp = of_dp, mean_e = of_e;
    double of_g = 0;
    for (int64_t d = 0; d < size; ++d) of_g += p(d) * g(d);
    mean_g = of_g;
    for (int64_t d = 0; d < size; ++d) {
      expect_near(at(tile, 0, row, d), p(d), 1e-6, "attention_second P");
      expect_near(at(tile, 1, row, d), p(d) * along(d), 1e-6, "attention_second dS");
      expect_near(at(tile, 2, row, d), p(d) * across(d), 1e-6, "attention_second W");
      expect_near(at(tile, 3, row, d), p(d) * (g(d) - mean_g), 1e-6, "attention_second G");
    }
  }
}

// Not in the digest either. Rows are what a sample has in one of two groups of channels.
void test_norm(const int64_t samples, const int64_t channels, const int64_t size,
               const int threads) {
  const int64_t entries = samples * channels * size, length = channels / 2 * size;
  const auto x = normal(entries, 10), g = normal(entries, 11), u = normal(entries, 12);
  const auto weight = normal(channels, 13);
  std::vector<float> first(entries), of_x(entries), of_g(entries), found(2 * channels);
  std::vector<float> of_weight(channels);
  const int64_t parts = norm_parts(samples, channels * size);
  std::vector<double> partial(parts * 2 * channels);
  Norm op{.dtype = Dtype::f32,
          .samples = samples,
          .channels = channels,
          .size = size,
          .groups = 2,
          .centred = true,
          .eps = 1e-3,
          .weight = weight.data(),
          .x = x.data(),
          .g = g.data(),
          .u = nullptr,
          .of_x = first.data(),
          .of_g = nullptr,
          .of_parameters = found.data(),
          .parts = parts,
          .partial = partial.data(),
          .stats = nullptr};
  cpu::norm(op, threads);
  op.u = u.data(), op.of_x = of_x.data(), op.of_g = of_g.data();
  op.of_parameters = of_weight.data();
  cpu::norm(op, threads);
  std::vector<double> by_weight(3 * channels);
  for (int64_t row = 0; row < 2 * samples; ++row) {
    const auto w = [&](const int64_t d) {
      return double{weight[row % 2 * channels / 2 + d / size]};
    };
    const auto at = [&](const auto& of, const int64_t d) { return double{of[row * length + d]}; };
    const auto mean = [&](const auto& term) {
      double sum = 0;
      for (int64_t d = 0; d < length; ++d) sum += term(d);
      return sum / static_cast<double>(length);
    };
    const double mx = mean([&](int64_t d) { return at(x, d); });
    const double mh = mean([&](int64_t d) { return at(g, d) * w(d); });
    const double mu = mean([&](int64_t d) { return at(u, d); });
    const double variance = mean([&](int64_t d) { return (at(x, d) - mx) * (at(x, d) - mx); });
    const double rstd = 1 / std::sqrt(variance + 1e-3);
    const auto n = [&](int64_t d) { return rstd * (at(x, d) - mx); };
    const auto left_h = [&](int64_t d) { return at(g, d) * w(d) - mh; };
    const auto left_u = [&](int64_t d) { return at(u, d) - mu; };
    const double b = mean([&](int64_t d) { return n(d) * left_h(d); });
    const double a = mean([&](int64_t d) { return n(d) * left_u(d); });
    const double c = mean([&](int64_t d) { return left_u(d) * left_h(d); });
    for (int64_t d = 0; d < length; ++d) {
      const int64_t channel = row % 2 * channels / 2 + d / size;
      const double along = rstd * (left_u(d) - a * n(d));
      expect_near(at(first, d), rstd * (left_h(d) - b * n(d)), 1e-5, "norm_first");
      expect_near(at(of_g, d), w(d) * along, 1e-5, "norm_second of g");
      expect_near(at(of_x, d),
                  -rstd * rstd * (b * left_u(d) + a * left_h(d) + n(d) * (c - 3 * a * b)), 1e-5,
                  "norm_second of x");
      by_weight[channel] += at(g, d) * n(d);
      by_weight[channels + channel] += at(g, d);
      by_weight[2 * channels + channel] += at(g, d) * along;
    }
  }
  for (int64_t s = 0; s < 3 * channels; ++s)
    expect_near(s < 2 * channels ? found[s] : of_weight[s - 2 * channels], by_weight[s], 1e-5,
                "norm of the parameters");
}

}  // namespace

int main() {
  for (const int threads : {1, 2, 3}) {
    for (const int64_t size : {1, 31, 33, 100, 4097}) test_attention_second(9, size, threads);
    for (const int64_t size : {1, 31, 32, 33, 100, 4097, 20000}) test_row_norm(3, size, threads);
    for (const int64_t size : {1, 31, 1023, 1024, 1025, 100000}) test_activation(size, threads);
    for (const auto& [channels, size] : {std::pair(8, 1), {802, 1}, {2, 37}, {6, 5}, {4, 1000}})
      test_norm(70, channels, size, threads);
    for (const int64_t samples : {1, 2, 13})
      for (const int64_t size : {1, 7, 32, 65, 9000}) test_deepfool(samples, 5, size, threads);
    for (const int64_t width : {3, 7, 28, 31, 32, 65, 300})
      for (const auto& [kernel, stride] : {std::pair(2, 2), {3, 2}, {3, 1}, {1, 2}})
        test_max_pool(5, width / 2 + 2, width, kernel, stride, threads);
  }
  test_deepfool(2, 1, 5, 1);  // one class: everything stalls
  test_cotangents(5, 1, 1, false);
  test_cotangents(5, 4, 10, false);
  test_cotangents(5, 9, 10, true);
  std::printf("all twins agree with plain loops; digest %016" PRIx64 "\n", digest);
}
