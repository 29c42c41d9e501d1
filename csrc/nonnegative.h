// A small quadratic function over numbers that are not negative: its maximum, on host and device.
#pragma once

#include <cmath>

#include "split.h"

namespace jacfast {

constexpr int HALFSPACES = 8;  // of a sample, and variables here, at most
constexpr int HALFSPACE_PAIRS = HALFSPACES * (HALFSPACES + 1) / 2;

// Where the entry of row i, column j of a symmetric matrix stands.
JACFAST_BOTH constexpr int pair_of(const int i, const int j) {
  return i >= j ? i * (i + 1) / 2 + j : j * (j + 1) / 2 + i;
}

// Entry i of a symmetric matrix times a vector of `count` entries.
JACFAST_BOTH inline double times(const double* matrix, const double* vector, const int count,
                                 const int i) {
  double sum = 0;
  for (int j = 0; j < count; ++j) sum += matrix[pair_of(i, j)] * vector[j];
  return sum;
}

// linear . b - b model b / 2, with a positive definite model. On a GPU all of it lies in shared
// memory: arrays of a thread's own would have to be indexed by constants.
struct NonNegative {
  int count;
  double model[HALFSPACE_PAIRS], linear[HALFSPACES];

  // Find the b >= 0 where it is largest, by active sets (Lawson & Hanson 1974, chapter 23).
  JACFAST_BOTH void maximise(double* b) {
    double largest = 0;
    unsigned active = 0;
    for (int i = 0; i < count; ++i) b[i] = 0, largest = fmax(largest, fabs(linear[i]));
    for (int round = 0; round < 3 * count; ++round) {
      int next = -1;
      double most = 1e-13 * largest;
      for (int i = 0; i < count; ++i) {
        const double gain = linear[i] - times(model, b, count, i);
        if (!(active >> i & 1) && gain > most) most = gain, next = i;
      }
      if (next < 0) return;
      active |= 1u << next;
      while (active != 0) {
        solve(active);
        const int last = advance(active, b);
        if (last < 0) break;
        active &= ~(1u << last);
      }
    }
  }

 private:
  double found[HALFSPACES], factor[HALFSPACE_PAIRS];

  // Move the active entries of b to `found`, or as far as none is negative; return the one that is
  // 0 then, or -1.
  JACFAST_BOTH int advance(const unsigned active, double* b) const {
    double part = 1;
    int last = -1;
    for (int i = 0; i < count; ++i) {
      if (!(active >> i & 1) || found[i] > 0) continue;
      const double own = b[i] > 0 ? b[i] / (b[i] - found[i]) : 0;
      if (last < 0 || own < part) part = own, last = i;
    }
    for (int i = 0; i < count; ++i)
      if (active >> i & 1)
        b[i] = last < 0 ? found[i] : i == last ? 0 : fmax(b[i] + part * (found[i] - b[i]), 0.0);
    return last;
  }

  // Solve model found = linear in the active entries, by Cholesky's factors.
  JACFAST_BOTH void solve(const unsigned active) {
    for (int i = 0; i < count; ++i) {
      if (!(active >> i & 1)) continue;
      double rest = linear[i];
      for (int j = 0; j <= i; ++j) {
        if (!(active >> j & 1)) continue;
        double sum = model[pair_of(i, j)];
        for (int k = 0; k < j; ++k)
          if (active >> k & 1) sum -= factor[pair_of(i, k)] * factor[pair_of(j, k)];
        if (i == j) {
          factor[pair_of(i, i)] = sqrt(fmax(sum, 1e-12));  // rounding may take what is added
        } else {
          factor[pair_of(i, j)] = sum / factor[pair_of(j, j)];
          rest -= factor[pair_of(i, j)] * found[j];
        }
      }
      found[i] = rest / factor[pair_of(i, i)];
    }
    for (int i = count - 1; i >= 0; --i) {
      if (!(active >> i & 1)) continue;
      for (int k = i + 1; k < count; ++k)
        if (active >> k & 1) found[i] -= factor[pair_of(k, i)] * found[k];
      found[i] /= factor[pair_of(i, i)];
    }
  }
};

}  // namespace jacfast
