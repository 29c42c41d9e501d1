// The CPU twin of halfspace_projection without torch, against slow ways that share nothing with it;
// meant to run under the sanitizers too. Threads change no bit; compilers may, where they fuse
// products and sums, so nothing of it is in the digest of test_twins.cpp.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <limits>
#include <numeric>
#include <vector>

#include "ops/halfspace_projection.h"
#include "twins.h"

namespace {

using namespace jacfast;

// Images x in [0, 1], some entries on its faces, and half-spaces that hold a point of the box.
template <typename T>
struct Problem {
  int64_t samples, cuts, size;
  std::vector<T> low, high, w;
  std::vector<double> c;

  Problem(const int64_t samples, const int64_t cuts, const int64_t size, const bool boxed)
      : samples(samples), cuts(cuts), size(size), c(samples * cuts) {
    const auto own = normal(samples * cuts * size, 1), common = normal(samples * size, 2);
    const auto x = normal(samples * size, 3), inner = normal(samples * size, 4);
    const auto image = [](const float v) { return std::clamp(0.5 + 0.4 * v, 0.0, 1.0); };
    const double far = std::numeric_limits<double>::infinity();
    for (int64_t d = 0; d < samples * size; ++d) {
      low.push_back(static_cast<T>(boxed ? -image(x[d]) : -far));
      high.push_back(static_cast<T>(boxed ? 1 - image(x[d]) : far));
    }
    for (int64_t row = 0; row < samples * cuts; ++row)
      for (int64_t d = 0; d < size; ++d) {
        const int64_t at = row / cuts * size + d;
        w.push_back(static_cast<T>((1.0 + row % cuts) * (own[row * size + d] + common[at])));
        c[row] += w.back() * 0.9 * (image(inner[at]) - image(x[at]));
      }
  }

  double row(const int64_t i, const int64_t cut, const int64_t d) const {
    return w[(i * cuts + cut) * size + d];
  }

  double length(const int64_t i, const int64_t cut) const {
    double sum = 0;
    for (int64_t d = 0; d < size; ++d) sum += row(i, cut, d) * row(i, cut, d);
    return std::sqrt(sum);
  }

  double inside(const int64_t i, const int64_t d, const double r) const {
    return std::clamp<double>(r, low[i * size + d], high[i * size + d]);
  }
};

// The least v in 0 .. 2^k for which `holds`, by bisection.
template <typename F>
double least(const F& holds) {
  double below = 0, above = 1;
  if (holds(0)) return 0;
  for (int k = 0; k < 40 && !holds(above); ++k) below = above, above *= 2;
  for (int k = 0; k < 60; ++k) {
    const double middle = (below + above) / 2;
    (holds(middle) ? above : below) = middle;
  }
  return above;
}

// The r of least 2-norm of sample i: each multiplier in turn is what its own half-space needs.
template <typename T>
std::vector<double> by_turns(const Problem<T>& p, const int64_t i) {
  std::vector<double> a(p.cuts), r(p.size);
  const auto join = [&] {
    for (int64_t d = 0; d < p.size; ++d) {
      double sum = 0;
      for (int64_t cut = 0; cut < p.cuts; ++cut) sum += a[cut] * p.row(i, cut, d);
      r[d] = p.inside(i, d, sum);
    }
  };
  for (int round = 0; round < (p.cuts > 1 ? 100 : 1); ++round)
    for (int64_t cut = 0; cut < p.cuts; ++cut) {
      a[cut] = least([&](const double multiplier) {
        a[cut] = multiplier;
        join();
        double along = 0;
        for (int64_t d = 0; d < p.size; ++d) along += p.row(i, cut, d) * r[d];
        return along >= p.c[i * p.cuts + cut];
      });
    }
  join();
  return r;
}

// The least largest entry of an r of sample i with v . r >= goal.
template <typename T>
double flattest(const Problem<T>& p, const int64_t i, const std::vector<double>& v,
                const double goal) {
  return least([&](const double most) {
    double along = 0;
    for (int64_t d = 0; d < p.size; ++d) along += v[d] * p.inside(i, d, v[d] > 0 ? most : -most);
    return along >= goal;
  });
}

// The least 1-norm of such an r: entries are filled in the order of what they bring.
template <typename T>
double thinnest(const Problem<T>& p, const int64_t i, const std::vector<double>& v, double goal) {
  std::vector<int64_t> order(p.size);
  std::iota(order.begin(), order.end(), 0);
  std::sort(order.begin(), order.end(),
            [&](const int64_t a, const int64_t b) { return std::abs(v[a]) > std::abs(v[b]); });
  double size = 0;
  for (const int64_t d : order) {
    if (goal <= 0) break;
    const double asked = goal / v[d], used = p.inside(i, d, asked);
    size += std::abs(used), goal = used == asked ? 0 : goal - v[d] * used;
  }
  return size;
}

// The least norm of an r of sample i, which is that of the combination of (at most two)
// half-spaces that asks for most: on finer and finer grids.
template <typename T>
double by_grids(const Problem<T>& p, const int64_t i, const double norm) {
  const auto asked = [&](const double share) {
    const double a = (1 - share) / p.length(i, 0), b = share / p.length(i, p.cuts - 1);
    const double goal = a * p.c[i * p.cuts] + b * p.c[(i + 1) * p.cuts - 1];
    std::vector<double> v(p.size);
    for (int64_t d = 0; d < p.size; ++d) v[d] = a * p.row(i, 0, d) + b * p.row(i, p.cuts - 1, d);
    return norm == 1 ? thinnest(p, i, v, goal) : flattest(p, i, v, goal);
  };
  double middle = 0.5, found = 0;
  for (double width = 0.5; width > 1e-6; width /= 8) {
    const double centre = middle;
    for (int k = -8; k <= 8; ++k) {
      const double share = std::clamp(centre + width * k / 8, 0.0, 1.0), far = asked(share);
      if (far > found) found = far, middle = share;
    }
  }
  return found;
}

template <typename T>
struct Found {
  std::vector<T> r;
  std::vector<double> missed;

  Found(const Problem<T>& p, const double norm, const int threads)
      : r(p.samples * p.size), missed(p.samples) {
    const Dtype dtype = sizeof(T) == 8 ? Dtype::f64 : Dtype::f32;
    cpu::halfspace_projection({dtype, norm, p.samples, p.cuts, p.size, p.low.data(), p.high.data(),
                               p.w.data(), p.c.data(), r.data(), missed.data()},
                              threads);
  }
};

template <typename T>
void test(const int64_t samples, const int64_t cuts, const int64_t size, const bool boxed,
          const double norm) {
  const Problem<T> p(samples, cuts, size, boxed);
  const Found<T> found(p, norm, 1), shared(p, norm, 3);
  const double rounding = sizeof(T) == 8 ? 1e-7 : 1e-5;
  for (int64_t i = 0; i < p.samples; ++i) {
    const T* r = found.r.data() + i * size;
    double most = 0, sum = 0, missed = 0;
    for (int64_t d = 0; d < size; ++d) {
      most = std::max<double>(most, std::abs(r[d])), sum += std::abs(r[d]);
      expect_near(r[d], p.inside(i, d, r[d]), 0, "halfspace_projection, the box");
      expect_near(r[d], shared.r[i * size + d], 0, "halfspace_projection by three threads");
    }
    for (int64_t cut = 0; cut < cuts; ++cut) {
      double along = 0;
      for (int64_t d = 0; d < size; ++d) along += p.row(i, cut, d) * r[d];
      missed = std::max(missed, (p.c[i * cuts + cut] - along) / p.length(i, cut));
    }
    expect_near(missed, 0, norm == 2 ? rounding : 1e-5, "halfspace_projection, the half-spaces");
    expect_near(found.missed[i], missed, rounding, "halfspace_projection, what is missed");
    if (norm != 2) {
      const double want = by_grids(p, i, norm), got = norm == 1 ? sum : most;
      const double ratio = want > 0 ? got / want : got + 1;
      if (norm == 1)  // too long by a tenth at most, and hardly ever by so much
        expect_near(ratio, 1.025, 0.02501, "halfspace_projection, the 1-norm");
      else
        expect_near(ratio, 1.00025, 1.3e-4, "halfspace_projection, the largest entry");
    } else {
      const auto want = by_turns(p, i);
      for (int64_t d = 0; d < size; ++d)
        expect_near(r[d], want[d], 1e-5, "halfspace_projection, the shortest");
    }
  }
}

// A row or a bound that is no number, or infinite, or a row of zeros: as if it were not there.
void test_nothing(const double entry, const double bound) {
  Problem<double> p(5, 3, 37, true), without = p;
  without.cuts = 2, without.w.clear(), without.c.clear();
  for (int64_t row = 0; row < 15; ++row) {
    if (row % 3 == 1) {
      std::fill_n(p.w.begin() + row * 37, 37, entry), p.c[row] = bound;
      continue;
    }
    without.w.insert(without.w.end(), p.w.begin() + row * 37, p.w.begin() + (row + 1) * 37);
    without.c.push_back(p.c[row]);
  }
  for (const double norm : {1.0, 2.0, HUGE_VAL}) {
    const Found<double> got(p, norm, 1), want(without, norm, 1);
    for (size_t d = 0; d < got.r.size(); ++d)
      expect_near(got.r[d], want.r[d], 0, "halfspace_projection with a half-space of nothing");
  }
}

}  // namespace

int main() {
  constexpr double INF = std::numeric_limits<double>::infinity();
  for (const double odd : {std::nan(""), INF, -INF}) test_nothing(odd, 1), test_nothing(1, odd);
  test_nothing(0, 1);
  test<float>(100, 1, 8000, true, 2);  // so much that threads share it
  for (const bool boxed : {true, false})
    for (const int64_t size : {1, 2, 31, 33, 257, 300}) {
      for (const int64_t cuts : {1, 2, 3, 8}) {
        test<float>(5, cuts, size, boxed, 2);
        test<double>(5, cuts, size, boxed, 2);
      }
      for (const int64_t cuts : {1, 2})
        for (const double norm : {1.0, INF}) {
          test<float>(5, cuts, size, boxed, norm);
          test<double>(5, cuts, size, boxed, norm);
        }
    }
  std::printf("halfspace_projection agrees with slower ways\n");
}
