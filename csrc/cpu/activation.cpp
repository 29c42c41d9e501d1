// activation_first and activation_second on the CPU: each task takes BLOCK entries, half types by
// way of floats.
#include "../ops/activation.h"

#include <algorithm>

#include "exponential.h"
#include "parallel.h"
#include "vector.h"

namespace jacfast::cpu {
namespace {

constexpr int64_t BLOCK = 1024, TASK = 16 * BLOCK;

struct Math {
  template <typename A>
  [[gnu::always_inline]] static A exp(const A x) {
    return exp_down(x);
  }
  template <typename A>
  [[gnu::always_inline]] static A normal_tail(const A a, const A w) {
    return cpu::normal_tail(a, w);
  }
};

template <typename A>
SmoothParameters<A> parameters_of(const SmoothParameters<double>& p) {
  return {static_cast<A>(p.first), static_cast<A>(p.second), static_cast<A>(p.third)};
}

template <Smooth KIND, typename A>
JACFAST_CLONES void first(const SmoothParameters<A> p, const A* __restrict x, const A* __restrict g,
                          const int64_t size, A* __restrict of_x) {
  for (int64_t i = 0; i < size; ++i) of_x[i] = g[i] * derivatives<KIND, Math>(x[i], p).slope;
}

template <Smooth KIND, typename A>
JACFAST_CLONES void second(const SmoothParameters<A> p, const A* __restrict x,
                           const A* __restrict g, const A* __restrict u, const int64_t size,
                           A* __restrict of_x, A* __restrict of_g) {
  for (int64_t i = 0; i < size; ++i) {
    const Derivatives<A> at = derivatives<KIND, Math>(x[i], p);
    of_x[i] = u[i] * g[i] * at.bend;
    of_g[i] = u[i] * at.slope;
  }
}

template <typename From, typename To>
JACFAST_CLONES void convert(const From* __restrict from, const int64_t size, To* __restrict to) {
  for (int64_t i = 0; i < size; ++i) to[i] = static_cast<To>(from[i]);
}

// A block of values of T as numbers to compute with: the values themselves, or floats of them.
template <typename T>
struct Values {
  Acc<T> room[BLOCK] = {};
  const Acc<T>* read(const void* from, const int64_t begin, const int64_t size) {
    convert(static_cast<const T*>(from) + begin, size, room);
    return room;
  }
  Acc<T>* at(void*, int64_t) { return room; }
  void written(void* to, const int64_t begin, const int64_t size) {
    convert(room, size, static_cast<T*>(to) + begin);
  }
};
template <typename A>
  requires std::is_floating_point_v<A>
struct Values<A> {
  const A* read(const void* from, const int64_t begin, int64_t) {
    return static_cast<const A*>(from) + begin;
  }
  A* at(void* to, const int64_t begin) { return static_cast<A*>(to) + begin; }
  void written(void*, int64_t, int64_t) {}
};

// Call body(begin, end) for the entries of each task.
template <typename F>
void in_tasks(const int64_t entries, const int64_t moved, const int threads, const F& body) {
  parallel_for((entries + TASK - 1) / TASK, moved, threads, [&](const int64_t task) {
    body(task * TASK, std::min((task + 1) * TASK, entries));
  });
}

template <Smooth KIND, typename T>
void run(const ActivationFirst& op, const int threads) {
  const auto p = parameters_of<Acc<T>>(op.parameters);
  in_tasks(op.size, 3 * op.size, threads, [&](int64_t begin, const int64_t end) {
    Values<T> x, g, of_x;
    for (; begin < end; begin += BLOCK) {
      const int64_t size = std::min(BLOCK, end - begin);
      first<KIND>(p, x.read(op.x, begin, size), g.read(op.g, begin, size), size,
                  of_x.at(op.of_x, begin));
      of_x.written(op.of_x, begin, size);
    }
  });
}

template <Smooth KIND, typename T>
void run(const ActivationSecond& op, const int threads) {
  const auto p = parameters_of<Acc<T>>(op.parameters);
  in_tasks(op.size, 5 * op.size, threads, [&](int64_t begin, const int64_t end) {
    Values<T> x, g, u, of_x, of_g;
    for (; begin < end; begin += BLOCK) {
      const int64_t size = std::min(BLOCK, end - begin);
      second<KIND>(p, x.read(op.x, begin, size), g.read(op.g, begin, size),
                   u.read(op.u, begin, size), size, of_x.at(op.of_x, begin),
                   of_g.at(op.of_g, begin));
      of_x.written(op.of_x, begin, size);
      of_g.written(op.of_g, begin, size);
    }
  });
}

template <typename Op>
void run_typed(const Op& op, const int threads) {
  with_kind(op.kind, [&](auto kind) {
    with_type(op.dtype, [&](auto type) { run<kind.value, decltype(type)>(op, threads); });
  });
}

}  // namespace

void activation_first(const ActivationFirst& op, const int threads) { run_typed(op, threads); }
void activation_second(const ActivationSecond& op, const int threads) { run_typed(op, threads); }

}  // namespace jacfast::cpu
