// The ascents by which halfspace_projection finds its vector, for both twins.
//
// A `team` has lead(f), which calls f in one of its threads, between barriers; sweep(shape), which
// keeps the sums at h.point; spread(), which returns the 1-norm of r there; and filled(length),
// which returns the largest (sum_i point_i w_i) . r of entries up to it, and how fast that grows.
#pragma once

#include "halfspaces.h"

#ifdef __CUDACC__
#define JACFAST_INSIDE __device__  // a team of threads is no thing of the host
#else
#define JACFAST_INSIDE
#endif

namespace jacfast {

// Maximise the dual of an r of that shape; `early`: or prove that no r fulfils all.
template <typename Team>
JACFAST_INSIDE void ascend(Halfspaces& h, const Shape shape, const bool early, const Team& team) {
  constexpr int ROUNDS = 100;  // at most; three are the rule
  team.lead([&] { h.reset(shape.threshold); });
  for (int round = 0; round < ROUNDS && !h.solved(early); ++round) {
    team.lead([&] { h.aim(); });
    if (h.stuck) return;
    for (int trial = 0; trial < Halfspaces::TRIALS; ++trial) {
      team.sweep(shape);
      team.lead([&] { h.judge(trial); });
      if (h.taken) break;
    }
    team.lead([&] { h.take(); });
  }
}

// Look at the multipliers that were found.
template <typename Team>
JACFAST_INSIDE void look(Halfspaces& h, const Team& team) {
  team.lead([&] {
    for (int i = 0; i < h.count; ++i) h.look(i, h.a[i]);
  });
}

// The largest entry that an r in the box with (sum_i point_i w_i) . r >= goal has at least, or
// `length`, if that is more: Newton's steps to the zero of a concave function, from below.
template <typename Team>
JACFAST_INSIDE double lengthened(const double goal, double length, const Team& team) {
  constexpr int STEPS = 100;  // at most
  for (int step = 0; step < STEPS; ++step) {
    const auto sums = team.filled(length);
    const double lacking = goal - sums.at[0];
    if (!(lacking > 1e-10 * goal) || !(sums.at[1] > 0)) break;
    length += lacking / sums.at[1];
  }
  return length;
}

// Find an r whose largest entry is the least; return the limit that its entries are kept to.
template <typename Team>
JACFAST_INSIDE double flatten(Halfspaces& h, const Team& team) {
  constexpr int ROUNDS = 100;  // at most; one to four are the rule
  constexpr double SLACK = 5e-4;
  double length = 0, limit = 0;
  for (int i = 0; i < h.count; ++i) {
    team.lead([&] {
      for (int j = 0; j < h.count; ++j) h.look(j, i == j ? 1 : 0);
    });
    length = lengthened(h.goal[i], length, team);
  }
  bool early = true;
  for (int round = 0; round < ROUNDS; ++round) {
    limit = length * (1 + SLACK);
    ascend(h, {.limit = limit}, early, team);
    if (h.met()) break;
    double sum = 0, goal = 0;  // of a combination of half-spaces that all r miss
    for (int i = 0; i < h.count; ++i) sum += h.a[i], goal += h.a[i] * h.goal[i];
    team.lead([&] {
      for (int i = 0; i < h.count; ++i) h.look(i, h.a[i] / sum);
    });
    const double longer = lengthened(goal / sum, length, team);
    if (!(longer > limit) && !early) break;  // the box is used up
    early = longer > limit;
    length = early ? longer : length;
  }
  return limit;
}

// Find an r whose 1-norm is the least; return the threshold of its entries.
template <typename Team>
JACFAST_INSIDE double thin(Halfspaces& h, const Team& team) {
  // r is then too long by at most a 2 SHARE-th of its largest entry over that 1-norm
  constexpr double SHARE = 5;
  ascend(h, {}, false, team);
  if (!h.met()) return 0;  // the box is used up
  look(h, team);
  const double threshold = SHARE * team.spread();
  ascend(h, {.threshold = threshold}, false, team);
  return threshold;
}

// Find the r of least p-norm: return its shape, with which h.coefficient gives it.
template <typename Team>
JACFAST_INSIDE Shape shortest(Halfspaces& h, const double p, const Team& team) {
  Shape shape;
  if (p == 1)
    shape.threshold = thin(h, team);
  else if (p == 2)
    ascend(h, shape, false, team);
  else
    shape.limit = flatten(h, team);
  look(h, team);
  return shape;
}

}  // namespace jacfast
