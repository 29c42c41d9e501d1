// halfspace_projection on the CPU: a task for each sample, whose rows stay in cache for its sweeps.
#include "../ops/halfspace_projection.h"

#include <cfloat>
#include <limits>

#include "../ascent.h"
#include "parallel.h"
#include "vector.h"

namespace jacfast::cpu {
namespace {

constexpr int64_t CHUNK = 8 * LANES;

// Entries of the rows of a sample, in double, with zeros up to the next LANES.
struct Chunk {
  double w[HALFSPACES][CHUNK], low[CHUNK], high[CHUNK], r[CHUNK], joined[CHUNK], kept[CHUNK];
  int64_t size;
};

// Sums in LANES interleaved sums each, of which a sweep needs some.
struct LaneSums {
  double along[HALFSPACES][LANES], products[HALFSPACE_PAIRS][LANES], most[LANES];
};

[[gnu::always_inline]] inline void add(const double* a, const double* b, const int64_t size,
                                       double* lanes) {
  for (int64_t d = 0; d < size; d += LANES)
    for (int64_t l = 0; l < LANES; ++l) lanes[l] += a[d + l] * b[d + l];
}

template <typename T>
struct Sample {
  const T *low, *high, *w;
  int64_t size;

  [[gnu::always_inline]] inline void read(const T* from, const int64_t begin, const int64_t size,
                                          double* to) const {
    for (int64_t d = 0; d < size; ++d) to[d] = from[begin + d];
    for (int64_t d = size; d % LANES > 0; ++d) to[d] = 0;
  }

  // Read the entries from `begin` on, of the box and of h's rows; join these, and make r of them.
  // `kept` is 1 where the threshold leaves something.
  [[gnu::always_inline]] inline void read(const Halfspaces& h, const Shape shape,
                                          const int64_t begin, Chunk& chunk) const {
    const int64_t entries = std::min(CHUNK, size - begin);
    read(low, begin, entries, chunk.low);
    read(high, begin, entries, chunk.high);
    chunk.size = (entries + LANES - 1) / LANES * LANES;
    std::fill_n(chunk.joined, chunk.size, 0.0);
    for (int i = 0; i < h.count; ++i) {
      read(w + h.row[i] * size, begin, entries, chunk.w[i]);
      const double each = h.coefficient[i];
      for (int64_t d = 0; d < chunk.size; ++d) chunk.joined[d] += each * chunk.w[i][d];
    }
    for (int64_t d = 0; d < chunk.size; ++d) {
      const double least = chunk.low[d] < 0 ? chunk.low[d] : 0;
      const double most = chunk.high[d] > 0 ? chunk.high[d] : 0;
      chunk.low[d] = least > -shape.limit ? least : -shape.limit;
      chunk.high[d] = most < shape.limit ? most : shape.limit;
      const double v = chunk.joined[d], size = v < 0 ? -v : v, left = size - shape.threshold;
      chunk.kept[d] = left >= 0;
      chunk.joined[d] = left > 0 ? (v < 0 ? -left : left) : 0;
      const double above = chunk.joined[d] > chunk.low[d] ? chunk.joined[d] : chunk.low[d];
      chunk.r[d] = above < chunk.high[d] ? above : chunk.high[d];
    }
  }
};

// Products of rows as they are, over all entries.
template <typename T>
JACFAST_CLONES void products(const T* w, const int cuts, const int64_t size, Halfspaces& h) {
  for (int i = 0; i < cuts; ++i)
    for (int j = 0; j <= i; ++j) {
      const T *a = w + i * size, *b = w + j * size;
      h.gram[pair_of(i, j)] = lane_sum(size, [=](const int64_t d) {
        return static_cast<double>(a[d]) * static_cast<double>(b[d]);
      });
    }
}

template <typename T>
JACFAST_CLONES void sweep(const Sample<T>& sample, const Shape shape, Halfspaces& h) {
  LaneSums sums;
  const int pairs = pair_of(h.count, 0);
  for (int i = 0; i < h.count; ++i) std::fill_n(sums.along[i], LANES, 0.0);
  for (int p = 0; p < pairs; ++p) std::fill_n(sums.products[p], LANES, 0.0);
  std::fill_n(sums.most, LANES, 0.0);
  Chunk chunk;
  for (int64_t begin = 0; begin < sample.size; begin += CHUNK) {
    sample.read(h, shape, begin, chunk);
    for (int i = 0; i < h.count; ++i) add(chunk.w[i], chunk.r, chunk.size, sums.along[i]);
    for (int64_t d = 0; d < chunk.size; d += LANES)
      for (int64_t l = 0; l < LANES; ++l) {
        const double v = chunk.joined[d + l];
        sums.most[l] += v > 0 ? v * chunk.high[d + l] : v < 0 ? v * chunk.low[d + l] : 0;
        chunk.kept[d + l] *= v == chunk.r[d + l];  // whether it is free
      }
    for (int i = 0; i < h.count; ++i) {
      for (int64_t d = 0; d < chunk.size; ++d) chunk.r[d] = chunk.w[i][d] * chunk.kept[d];
      for (int j = 0; j <= i; ++j)
        add(chunk.w[j], chunk.r, chunk.size, sums.products[pair_of(i, j)]);
    }
  }
  for (int i = 0; i < h.count; ++i) h.along[i] = fold(sums.along[i]);
  for (int p = 0; p < pairs; ++p) h.gram[p] = fold(sums.products[p]);
  h.reach = fold(sums.most);
  h.summed();
}

// The 1-norm of r at h.point.
template <typename T>
JACFAST_CLONES double spread(const Sample<T>& sample, const Halfspaces& h) {
  double sum[LANES] = {};
  Chunk chunk;
  for (int64_t begin = 0; begin < sample.size; begin += CHUNK) {
    sample.read(h, {}, begin, chunk);
    for (int64_t d = 0; d < chunk.size; d += LANES)
      for (int64_t l = 0; l < LANES; ++l) sum[l] += std::fabs(chunk.r[d + l]);
  }
  return fold(sum);
}

// The largest (sum_i point_i w_i) . r of entries up to `length`, and how fast it grows.
template <typename T>
JACFAST_CLONES std::array<double, 2> filled(const Sample<T>& sample, const double length,
                                            const Halfspaces& h) {
  double most[LANES] = {}, rate[LANES] = {};
  Chunk chunk;
  for (int64_t begin = 0; begin < sample.size; begin += CHUNK) {
    sample.read(h, {}, begin, chunk);
    for (int64_t d = 0; d < chunk.size; d += LANES)
      for (int64_t l = 0; l < LANES; ++l) {
        const double v = chunk.joined[d + l], size = v < 0 ? -v : v;
        const double room = v < 0 ? -chunk.low[d + l] : chunk.high[d + l];
        most[l] += size * (room < length ? room : length);
        rate[l] += room > length ? size : 0;
      }
  }
  return {fold(most), fold(rate)};
}

template <typename T>
JACFAST_CLONES void write(const Sample<T>& sample, const Shape shape, const Halfspaces& h, T* r) {
  Chunk chunk;
  for (int64_t begin = 0; begin < sample.size; begin += CHUNK) {
    sample.read(h, shape, begin, chunk);
    const int64_t entries = std::min(CHUNK, sample.size - begin);
    for (int64_t d = 0; d < entries; ++d) r[begin + d] = static_cast<T>(chunk.r[d]);
  }
}

// The team of a sample: one thread.
template <typename T>
struct Team {
  const Sample<T>& sample;
  Halfspaces& h;

  struct Filled {
    std::array<double, 2> at;
  };
  template <typename F>
  void lead(const F& f) const {
    f();
  }
  void sweep(const Shape shape) const { cpu::sweep(sample, shape, h); }
  double spread() const { return cpu::spread(sample, h); }
  Filled filled(const double length) const { return {cpu::filled(sample, length, h)}; }
};

template <typename T>
void run(const HalfspaceProjection& op, const int threads) {
  const int64_t work = op.samples * (op.cuts + 2) * op.size;
  parallel_for(op.samples, work, threads, [&](const int64_t i) {
    const Sample<T> sample{static_cast<const T*>(op.low) + i * op.size,
                           static_cast<const T*>(op.high) + i * op.size,
                           static_cast<const T*>(op.w) + i * op.cuts * op.size, op.size};
    const int cuts = static_cast<int>(op.cuts);
    Halfspaces h;
    products(sample.w, cuts, op.size, h);
    h.begin(op.c + i * op.cuts, cuts, std::numeric_limits<T>::min());
    const Shape shape = shortest(h, op.p, Team<T>{sample, h});
    write(sample, shape, h, static_cast<T*>(op.r) + i * op.size);
    op.missed[i] = h.missed();
  });
}

}  // namespace

void halfspace_projection(const HalfspaceProjection& op, const int threads) {
  op.dtype == Dtype::f64 ? run<double>(op, threads) : run<float>(op, threads);
}

}  // namespace jacfast::cpu
