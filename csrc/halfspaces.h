// How the shortest vector of a box and a few half-spaces is found: what the twins of
// halfspace_projection share. They add up sums over a row, each in its way; what is decided by
// these is here. Meaning and formulas: jacfast/ops/halfspace_projection.py.
#pragma once

#include <cfloat>
#include <cmath>
#include <cstdint>

#include "nonnegative.h"
#include "split.h"

namespace jacfast {

// How r is made of the entries joined, sum_i a_i w_i: nearer to 0 by `threshold`, or 0; and inside
// the box, up to `limit`.
struct Shape {
  double limit = INFINITY, threshold = 0;
};

// The half-spaces of a sample that say something, w . r >= goal with ||w|| = 1, and where the
// ascent on the dual is: at the multipliers `a`, on its way along `step`, looking at `point`.
struct Halfspaces {
  static constexpr double RIDGE = 1e-9;  // beside products of unit vectors
  static constexpr double CLOSE = 1e-8;  // of the first miss: a slope that is none
  static constexpr double FLAT = 0.3;    // of the slope before: a maximum along a line
  static constexpr int TRIALS = 20;      // along a line, at most; one is the rule

  int count;
  int row[HALFSPACES];       // which of the sample's
  double scale[HALFSPACES];  // 1 / ||w|| of the row as it is
  double goal[HALFSPACES];
  double full[HALFSPACE_PAIRS];  // products over all entries
  double first;                  // the largest miss of r = 0
  double a[HALFSPACES], step[HALFSPACES], point[HALFSPACES];
  double coefficient[HALFSPACES];  // of rows as they are, at `point`
  double along[HALFSPACES];        // w . r there
  double slope[HALFSPACES];        // of the dual there
  double gram[HALFSPACE_PAIRS];    // products there over the entries that are free
  double reach;                    // the largest (sum_i point_i w_i) . r in the box
  double rise, curve;              // along the step: slope where it begins, curvature at most
  double way, low, high, low_slope, high_slope;  // the part of the step that is looked at
  double damp;                                   // how much of `full` is added to `gram`
  double relief;                                 // by which that falls with each whole step
  bool taken, stuck;
  NonNegative piece;

  // Take the half-spaces with a direction, of a norm above `least`, and a finite bound. `gram` has
  // the products of all `cuts` rows as they are, over all entries.
  JACFAST_BOTH void begin(const double* c, const int cuts, const double least) {
    count = 0;
    first = 0;
    for (int i = 0; i < cuts; ++i) {
      const double norm = sqrt(gram[pair_of(i, i)]);
      if (!(norm > least && norm <= DBL_MAX && fabs(c[i]) <= DBL_MAX)) continue;
      row[count] = i;
      scale[count] = 1 / norm;
      goal[count] = c[i] / norm;
      first = fmax(first, goal[count]);
      for (int j = 0; j <= count; ++j)
        full[pair_of(count, j)] = gram[pair_of(i, row[j])] * scale[count] * scale[j];
      ++count;
    }
    piece.count = count;
  }

  // Go to a = 0, where r = 0 and every entry is free. With a threshold none is: the dual is flat
  // up to multipliers that are as many times larger as it is than r, so steps begin with these, and
  // grow less fast: too long a one ends far out, where all of r is at its bounds.
  JACFAST_BOTH void reset(const double threshold) {
    const bool flat = threshold > 0;
    for (int i = 0; i < count; ++i) a[i] = point[i] = along[i] = 0, slope[i] = goal[i];
    for (int p = 0; p < pair_of(count, 0); ++p) gram[p] = flat ? 0 : full[p];
    reach = 0;
    damp = flat ? fmin(1.0, first / threshold) : 0;
    relief = flat ? 4 : 10;
    stuck = false;
  }

  JACFAST_BOTH void look(const int i, const double weight) {
    point[i] = weight;
    coefficient[i] = weight * scale[i];
  }

  // Make of the sums at `point`, which `along` and `gram` have of rows as they are, the dual's.
  JACFAST_BOTH void summed() {
    for (int i = 0; i < count; ++i) {
      along[i] *= scale[i];
      slope[i] = goal[i] - along[i] - RIDGE * point[i];
      for (int j = 0; j <= i; ++j) gram[pair_of(i, j)] *= scale[i] * scale[j];
    }
  }

  // Say whether no half-space is missed by more than rounding.
  JACFAST_BOTH bool met() const { return missed() <= 1e-6 * first; }

  JACFAST_BOTH double missed() const {
    double most = 0;
    for (int i = 0; i < count; ++i) most = fmax(most, goal[i] - along[i]);
    return most;
  }

  // Say whether the dual is at its maximum, or, where that is enough, no r fulfils all.
  JACFAST_BOTH bool solved(const bool early) const {
    double most = 0, offer = 0;
    for (int i = 0; i < count; ++i) {
      most = fmax(most, a[i] > 0 ? fabs(slope[i]) : slope[i]);
      offer += a[i] * goal[i];
    }
    return stuck || !(most > CLOSE * first) || (early && reach < offer);
  }

  // Choose the way to the maximum over a >= 0 of the quadratic that the sums at `a` describe.
  JACFAST_BOTH void aim() {
    for (int p = 0; p < pair_of(count, 0); ++p) piece.model[p] = gram[p] + damp * full[p];
    for (int i = 0; i < count; ++i) piece.model[pair_of(i, i)] += RIDGE;
    for (int i = 0; i < count; ++i) piece.linear[i] = slope[i] + times(piece.model, a, count, i);
    piece.maximise(step);
    for (int i = 0; i < count; ++i) step[i] -= a[i];
    rise = curve = 0;
    for (int i = 0; i < count; ++i) {
      rise += slope[i] * step[i];
      curve += step[i] * times(full, step, count, i);
    }
    stuck = !(rise > 0);
    low = 0, low_slope = rise, high = 1, high_slope = 0;
    go(1);
  }

  // Decide by the sums at `point` whether it is near the maximum along the step; else look at
  // another one: first where the slope cannot be negative yet, then where it would be 0.
  JACFAST_BOTH void judge(const int trial) {
    double now = 0, bend = 0;
    for (int i = 0; i < count; ++i) {
      now += slope[i] * step[i];
      bend += step[i] * (times(gram, step, count, i) + RIDGE * step[i]);
    }
    taken = (now >= -FLAT * rise && (trial == 0 || now <= FLAT * rise)) || trial == TRIALS - 1;
    if (taken) return;
    if (now > 0)
      low = way, low_slope = now;
    else
      high = way, high_slope = now;
    const double length = high - low, newton = (way + now / bend - low) / length;
    const double chord = low_slope / (low_slope - high_slope);
    if (trial == 0 && rise < 0.5 * curve)
      go(rise / curve);
    else if (newton > 0.01 && newton < 0.99)
      go(low + length * newton);
    else
      go(low + length * fmin(fmax(chord, 0.01), 0.99));
  }

  // Go on from `point`. A step that led too far tells how many more entries were free on it.
  JACFAST_BOTH void take() {
    if (way < 1)
      damp = fmin(1.0, rise * (1 / way - 1) / fmax(curve, DBL_MIN));
    else
      damp = damp > 1e-12 ? damp / relief : 0;
    for (int i = 0; i < count; ++i) a[i] = point[i];
  }

 private:
  JACFAST_BOTH void go(const double part) {
    way = part;
    for (int i = 0; i < count; ++i) look(i, a[i] + part * step[i]);
  }
};

}  // namespace jacfast
