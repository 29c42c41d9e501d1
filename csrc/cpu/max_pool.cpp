// The max_pool family on the CPU: each task takes neighbouring planes, one after another through
// its scratch. Windows of 2 x 2 side by side, the usual ones, are taken TILE at a time.
#include "../ops/max_pool.h"

#include <limits>
#include <type_traits>
#include <vector>

#include "parallel.h"
#include "vector.h"

namespace jacfast::cpu {
namespace {

// Neighbouring windows that are taken together: a 512-bit register of floats. The last tile of a
// row ends with the row, or, where the row is shorter, in the row below, which comes later and
// overwrites what was written there; after the last row there is ROOM in the scratch.
constexpr int64_t TILE = 16;
constexpr int64_t ROOM = 2 * TILE;  // entries under a tile

inline int64_t tile_at(const int64_t column, const int64_t width) {
  return std::max<int64_t>(0, std::min(column, width - TILE));
}

// An integer of `BYTES` bytes: to move values about unseen, and to count beside them, so that both
// fill as many registers.
template <int BYTES>
using Bits =
    std::conditional_t<BYTES == 2, uint16_t, std::conditional_t<BYTES == 4, uint32_t, uint64_t>>;

template <typename From, typename To>
JACFAST_CLONES void copy(const From* __restrict from, const int64_t count, To* __restrict to) {
  if constexpr (std::is_same_v<From, To>)
    std::copy_n(from, count, to);
  else
    for (int64_t i = 0; i < count; ++i) to[i] = static_cast<To>(from[i]);
}

bool are_twos(const Pooling& pool) {
  return pool.kernel_height == 2 && pool.kernel_width == 2 && pool.stride_height == 2 &&
         pool.stride_width == 2;
}
int64_t entries(const Pooling& pool) { return pool.height * pool.width; }
int64_t windows(const Pooling& pool) { return pool.out_height * pool.out_width; }

// Keep the larger value and its place: of equals the first, and any NaN.
template <typename A>
[[gnu::always_inline]] inline void offer(const A value, const Bits<sizeof(A)> place, A& best,
                                         Bits<sizeof(A)>& chosen) {
  const bool better = (value > best) | (value != value);
  best = better ? value : best;
  chosen = better ? place : chosen;
}

template <typename A>
JACFAST_CLONES void choose_twos(const Pooling& pool, const bool relu, const A* __restrict x,
                                A* __restrict y, uint8_t* __restrict choice) {
  const int64_t width = pool.out_width;
  for (int64_t row = 0; row < pool.out_height; ++row)
    for (int64_t column = 0; column < width; column += TILE) {
      const int64_t window = row * width + tile_at(column, width);
      const A* top = x + 2 * (row * pool.width + tile_at(column, width));
      const A* bottom = top + pool.width;
      Bits<sizeof(A)> places[TILE];
      for (int64_t l = 0; l < TILE; ++l) {
        A best = top[2 * l];
        Bits<sizeof(A)> place = 0;
        offer<A>(top[2 * l + 1], 1, best, place);
        offer<A>(bottom[2 * l], 2, best, place);
        offer<A>(bottom[2 * l + 1], 3, best, place);
        const bool dead = relu & (best <= 0);
        y[window + l] = dead ? 0 : best;
        places[l] = dead ? DEAD : place;
      }
      for (int64_t l = 0; l < TILE; ++l) choice[window + l] = static_cast<uint8_t>(places[l]);
    }
}

// Of a and b, what `mask` says: all ones for a, none for b.
template <typename B>
[[gnu::always_inline]] inline B select(const B mask, const B a, const B b) {
  return (a & mask) | (b & ~mask);
}

// Offer each window of a row its entry at `place`, `step` entries apart from the next one's.
template <int64_t STEP, typename A>
JACFAST_CLONES void offer_row(const int64_t windows, const int64_t step, const A* __restrict from,
                              const Bits<sizeof(A)> place, A* __restrict best,
                              Bits<sizeof(A)>* __restrict chosen) {
  using B = Bits<sizeof(A)>;
  for (int64_t l = 0; l < windows; ++l) {
    const A value = from[l * (STEP > 0 ? STEP : step)];
    const B better = -B((value > best[l]) | (value != value));
    best[l] = std::bit_cast<A>(select(better, std::bit_cast<B>(value), std::bit_cast<B>(best[l])));
    chosen[l] = select(better, place, chosen[l]);
  }
}

template <typename A>
JACFAST_CLONES void relu_row(const int64_t windows, A* __restrict best,
                             Bits<sizeof(A)>* __restrict chosen) {
  using B = Bits<sizeof(A)>;
  for (int64_t l = 0; l < windows; ++l) {
    const B dead = -B(best[l] <= 0);
    best[l] = std::bit_cast<A>(select(dead, B(0), std::bit_cast<B>(best[l])));
    chosen[l] = select(dead, B(DEAD), chosen[l]);
  }
}

// `places` is room for a row of them.
template <int64_t STEP, typename A>
void choose_any(const Pooling& pool, const bool relu, const A* x, A* y, uint8_t* choice,
                Bits<sizeof(A)>* places) {
  const int64_t windows = pool.out_width;
  for (int64_t row = 0; row < pool.out_height; ++row) {
    std::fill_n(y, windows, -std::numeric_limits<A>::infinity());
    std::fill_n(places, windows, 0);
    for (int64_t i = 0; i < pool.kernel_height; ++i)
      for (int64_t j = 0; j < pool.kernel_width; ++j)
        offer_row<STEP, A>(windows, pool.stride_width,
                           x + (row * pool.stride_height + i) * pool.width + j,
                           i * pool.kernel_width + j, y, places);
    if (relu) relu_row<A>(windows, y, places);
    copy(places, windows, choice);
    y += windows, choice += windows;
  }
}

// Masks in place of conditions, of which compilers make vector code.
template <typename B>
JACFAST_CLONES void gather_twos(const Pooling& pool, const B* __restrict t,
                                const uint8_t* __restrict choice, B* __restrict out) {
  const int64_t width = pool.out_width;
  for (int64_t row = 0; row < pool.out_height; ++row)
    for (int64_t column = 0; column < width; column += TILE) {
      const int64_t window = row * width + tile_at(column, width);
      const B* top = t + 2 * (row * pool.width + tile_at(column, width));
      const B* bottom = top + pool.width;
      for (int64_t l = 0; l < TILE; ++l) {
        const B place = choice[window + l];
        out[window + l] = (top[2 * l] & -B(place == 0)) | (top[2 * l + 1] & -B(place == 1)) |
                          (bottom[2 * l] & -B(place == 2)) | (bottom[2 * l + 1] & -B(place == 3));
      }
    }
}

template <typename B>
JACFAST_CLONES void scatter_twos(const Pooling& pool, const B* __restrict g,
                                 const uint8_t* __restrict choice, B* __restrict out) {
  const int64_t width = pool.out_width;
  for (int64_t row = 0; row < 2 * pool.out_height; ++row) {
    B* line = out + row * pool.width;
    for (int64_t column = 0; column < width; column += TILE) {
      const int64_t first = tile_at(column, width), window = row / 2 * width + first;
      for (int64_t l = 0; l < TILE; ++l) {
        const B place = B(choice[window + l]) - B(row % 2 * 2), value = g[window + l];
        line[2 * (first + l)] = value & -B(place == 0);
        line[2 * (first + l) + 1] = value & -B(place == 1);
      }
    }
    if (pool.width % 2) line[pool.width - 1] = 0;
  }
  if (pool.height % 2) std::fill_n(out + (pool.height - 1) * pool.width, pool.width, B(0));
}

// Where in the plane each choice of a window lies, counted from the window's first entry.
struct Offsets {
  int64_t alive;  // choices from here on are dead, with offset 0
  int64_t of[256] = {};
  explicit Offsets(const Pooling& pool) : alive(pool.kernel_height * pool.kernel_width) {
    for (int64_t c = 0; c < alive; ++c)
      of[c] = c / pool.kernel_width * pool.width + c % pool.kernel_width;
  }
};

template <typename B>
void gather_any(const Pooling& pool, const Offsets& offsets, const B* t, const uint8_t* choice,
                B* out) {
  for (int64_t row = 0; row < pool.out_height; ++row)
    for (int64_t column = 0; column < pool.out_width; ++column, ++choice, ++out) {
      const B* window = t + row * pool.stride_height * pool.width + column * pool.stride_width;
      *out = window[offsets.of[*choice]] & -B(*choice < offsets.alive);
    }
}

// Add every g to what its window chose, in order; the sums start at zero.
template <typename T>
void scatter_any(const Pooling& pool, const Offsets& offsets, const T* g, const uint8_t* choice,
                 Acc<T>* sums) {
  std::fill_n(sums, pool.height * pool.width, Acc<T>(0));
  for (int64_t row = 0; row < pool.out_height; ++row)
    for (int64_t column = 0; column < pool.out_width; ++column, ++choice, ++g) {
      Acc<T>* window = sums + row * pool.stride_height * pool.width + column * pool.stride_width;
      window[offsets.of[*choice]] += *choice < offsets.alive ? wide(*g) : 0;
    }
}

// Whether a plane can be read and written where it is: it has whole tiles, or they end in the
// planes up to `end`, which come later.
bool fits(const Pooling& pool, const int64_t plane, const int64_t end) {
  return !are_twos(pool) || pool.out_width >= TILE || (end - plane - 1) * windows(pool) >= TILE;
}

// Call body(first, end) for spans of planes that are worth a scratch.
template <typename F>
void for_planes(const Pooling& pool, const int threads, const F& body) {
  const int64_t span = std::max<int64_t>(1, GRAIN / entries(pool));
  const int64_t tasks = (pool.planes + span - 1) / span;
  parallel_for(tasks, pool.planes * entries(pool), threads, [&](const int64_t task) {
    body(task * span, std::min(pool.planes, (task + 1) * span));
  });
}

template <typename A>
void choose(const Pooling& pool, const bool relu, const A* x, A* y, uint8_t* choice,
            Bits<sizeof(A)>* places) {
  if (are_twos(pool)) return choose_twos(pool, relu, x, y, choice);
  if (pool.stride_width == 1) return choose_any<1>(pool, relu, x, y, choice, places);
  if (pool.stride_width == 2) return choose_any<2>(pool, relu, x, y, choice, places);
  choose_any<0>(pool, relu, x, y, choice, places);
}

template <typename T>
void run(const MaxPool& op, const int threads) {
  const Pooling& pool = op.pool;
  for_planes(pool, threads, [&](const int64_t first, const int64_t end) {
    std::vector<Acc<T>> x(entries(pool) + ROOM), y(windows(pool) + ROOM);
    std::vector<uint8_t> choice(windows(pool) + ROOM);
    std::vector<Bits<sizeof(Acc<T>)>> places(pool.out_width);
    for (int64_t plane = first; plane < end; ++plane) {
      const T* from = static_cast<const T*>(op.x) + plane * entries(pool);
      T* to = static_cast<T*>(op.y) + plane * windows(pool);
      uint8_t* chosen = op.choice + plane * windows(pool);
      if constexpr (std::is_same_v<T, Acc<T>>)
        if (fits(pool, plane, end)) {
          choose(pool, op.relu, from, to, chosen, places.data());
          continue;
        }
      copy(from, entries(pool), x.data());
      choose(pool, op.relu, x.data(), y.data(), choice.data(), places.data());
      copy(y.data(), windows(pool), to);
      copy(choice.data(), windows(pool), chosen);
    }
  });
}

template <typename T>
void run(const MaxPoolScatter& op, const int threads) {
  using B = Bits<sizeof(T)>;
  const Pooling& pool = op.pool;
  const Offsets offsets(pool);
  for_planes(pool, threads, [&](const int64_t first, const int64_t end) {
    const bool twos = are_twos(pool);
    std::vector<B> g(twos ? windows(pool) + ROOM : 0), out(twos ? entries(pool) + ROOM : 0);
    std::vector<uint8_t> choice(twos ? windows(pool) + ROOM : 0);
    std::vector<Acc<T>> sums(twos ? 0 : entries(pool));
    for (int64_t plane = first; plane < end; ++plane) {
      const int64_t at = plane * windows(pool), start = plane * entries(pool);
      if (!twos) {
        scatter_any(pool, offsets, static_cast<const T*>(op.g) + at, op.choice + at, sums.data());
        copy(sums.data(), entries(pool), static_cast<T*>(op.out) + start);
        continue;
      }
      const B* from = static_cast<const B*>(op.g) + at;
      B* to = static_cast<B*>(op.out) + start;
      if (fits(pool, plane, end)) {
        scatter_twos(pool, from, op.choice + at, to);
        continue;
      }
      copy(from, windows(pool), g.data());
      copy(op.choice + at, windows(pool), choice.data());
      scatter_twos(pool, g.data(), choice.data(), out.data());
      copy(out.data(), entries(pool), to);
    }
  });
}

template <typename B>
void run(const MaxPoolGather& op, const int threads) {
  const Pooling& pool = op.pool;
  const Offsets offsets(pool);
  for_planes(pool, threads, [&](const int64_t first, const int64_t end) {
    const bool twos = are_twos(pool);
    std::vector<B> t(twos ? entries(pool) + ROOM : 0), out(twos ? windows(pool) + ROOM : 0);
    std::vector<uint8_t> choice(twos ? windows(pool) + ROOM : 0);
    for (int64_t plane = first; plane < end; ++plane) {
      const B* from = static_cast<const B*>(op.t) + plane * entries(pool);
      const uint8_t* chosen = op.choice + plane * windows(pool);
      B* to = static_cast<B*>(op.out) + plane * windows(pool);
      if (!twos) {
        gather_any(pool, offsets, from, chosen, to);
        continue;
      }
      if (fits(pool, plane, end)) {
        gather_twos(pool, from, chosen, to);
        continue;
      }
      copy(from, entries(pool), t.data());
      copy(chosen, windows(pool), choice.data());
      gather_twos(pool, t.data(), choice.data(), out.data());
      copy(out.data(), windows(pool), to);
    }
  });
}

}  // namespace

void max_pool(const MaxPool& op, const int threads) {
  with_type(op.pool.dtype, [&](auto type) { run<decltype(type)>(op, threads); });
}

void max_pool_scatter(const MaxPoolScatter& op, const int threads) {
  with_type(op.pool.dtype, [&](auto type) { run<decltype(type)>(op, threads); });
}

void max_pool_gather(const MaxPoolGather& op, const int threads) {
  with_type(op.pool.dtype, [&](auto type) { run<Bits<sizeof(type)>>(op, threads); });
}

}  // namespace jacfast::cpu
