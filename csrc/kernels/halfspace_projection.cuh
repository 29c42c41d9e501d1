// halfspace_projection on the GPU. Floor of the op: N (M + 2) D entries read once, N D written; the
// sweeps after the first one, four or so for the 2-norm, find a sample's rows in the caches.
#pragma once

#include <cfloat>

#include "../ascent.h"
#include "../ops/halfspace_projection.h"
#include "sums.cuh"

namespace jacfast::cuda {

// The same entries of the box and of a sample's half-spaces.
template <typename T, int CUTS, int VEC>
struct BoxAndRows {
  Pack<T, VEC> low, high, w[CUTS];
};

// An entry of the box up to the limit, what the half-spaces come to there beyond the threshold, r,
// and whether r is free to move with them.
struct JoinedEntry {
  double low, high, joined, r;
  bool free;
};

// The threads of sample i, for its ascents, with at most CUTS half-spaces.
template <typename T, int CUTS, int VEC>
class ProjectionTeam {
  static constexpr int PAIRS = CUTS * (CUTS + 1) / 2;
  const HalfspaceProjection& op;
  Halfspaces& h;
  const T *low, *high, *w;

 public:
  __device__ ProjectionTeam(const HalfspaceProjection& op, Halfspaces& h, const int64_t i)
      : op(op),
        h(h),
        low(static_cast<const T*>(op.low) + i * op.size),
        high(static_cast<const T*>(op.high) + i * op.size),
        w(static_cast<const T*>(op.w) + i * op.cuts * op.size) {}

  template <typename F>
  __device__ void lead(const F& f) const {
    team_sync();  // the others may still read what f writes
    if (threadIdx.x == 0) f();
    team_sync();
  }

  // Products of rows as they are, over all entries.
  __device__ void products() const {
    Sums<PAIRS> sums;
    for_packs<VEC, 1>(
        low, 0, op.size,
        [&](const int64_t d, auto size) {
          BoxAndRows<T, CUTS, size.value> packs{};
#pragma unroll
          for (int k = 0; k < CUTS; ++k)
            if (k < op.cuts) packs.w[k] = load<size.value>(w + k * op.size + d);
          return packs;
        },
        [&](int64_t, const auto& packs, auto size) {
#pragma unroll
          for (int e = 0; e < size.value; ++e)
#pragma unroll
            for (int i = 0; i < CUTS; ++i)
#pragma unroll
              for (int j = 0; j <= i; ++j)
                sums.at[pair_of(i, j)] += double{packs.w[i].at[e]} * double{packs.w[j].at[e]};
        });
    sums = team_sum(sums);
    lead([&] {
#pragma unroll
      for (int p = 0; p < PAIRS; ++p) h.gram[p] = sums.at[p];
    });
  }

  // Keep the sums at h.point.
  __device__ void sweep(const Shape shape) const {
    Sums<CUTS + PAIRS + 1> sums;
    for_entries(shape, [&](int64_t, const auto& packs, auto size, const auto& entry) {
#pragma unroll
      for (int e = 0; e < size.value; ++e) {
        const JoinedEntry at = entry(e);
        sums.at[CUTS + PAIRS] += at.joined > 0   ? at.joined * at.high
                                 : at.joined < 0 ? at.joined * at.low
                                                 : 0;
#pragma unroll
        for (int i = 0; i < CUTS; ++i) {
          const double wi = packs.w[i].at[e], counted = at.free ? wi : 0;
          sums.at[i] += wi * at.r;
#pragma unroll
          for (int j = 0; j <= i; ++j)
            sums.at[CUTS + pair_of(i, j)] += counted * double{packs.w[j].at[e]};
        }
      }
    });
    sums = team_sum(sums);
    lead([&] {
#pragma unroll
      for (int i = 0; i < CUTS; ++i) h.along[i] = sums.at[i];
#pragma unroll
      for (int p = 0; p < PAIRS; ++p) h.gram[p] = sums.at[CUTS + p];
      h.reach = sums.at[CUTS + PAIRS];
      h.summed();
    });
  }

  // The 1-norm of r at h.point.
  __device__ double spread() const {
    Sums<1> sums;
    for_entries({}, [&](int64_t, const auto&, auto size, const auto& entry) {
#pragma unroll
      for (int e = 0; e < size.value; ++e) sums.at[0] += fabs(entry(e).r);
    });
    return team_sum(sums).at[0];
  }

  // The largest (sum_i point_i w_i) . r of entries up to `length`, and how fast it grows.
  __device__ Sums<2> filled(const double length) const {
    Sums<2> sums;
    for_entries({}, [&](int64_t, const auto&, auto size, const auto& entry) {
#pragma unroll
      for (int e = 0; e < size.value; ++e) {
        const JoinedEntry at = entry(e);
        const double room = at.joined < 0 ? -at.low : at.high, each = fabs(at.joined);
        sums.at[0] += each * fmin(room, length);
        sums.at[1] += room > length ? each : 0;
      }
    });
    return team_sum(sums);
  }

  __device__ void write(const Shape shape, T* r) const {
    for_entries(shape, [&](const int64_t d, const auto&, auto size, const auto& entry) {
      Pack<T, size.value> found;
#pragma unroll
      for (int e = 0; e < size.value; ++e) found.at[e] = static_cast<T>(entry(e).r);
      store<size.value>(r + d, found);
    });
  }

 private:
  // Call use(d, packs, size, entry) for this thread's share of the entries.
  template <typename Use>
  __device__ void for_entries(const Shape shape, Use&& use) const {
    const T* rows[CUTS];
    double each[CUTS];
#pragma unroll
    for (int k = 0; k < CUTS; ++k) {
      const bool there = k < h.count;
      rows[k] = there ? w + h.row[k] * op.size : nullptr;
      each[k] = there ? h.coefficient[k] : 0;
    }
    for_packs<VEC, 1>(
        low, 0, op.size,
        [&](const int64_t d, auto size) {
          BoxAndRows<T, CUTS, size.value> packs{load<size.value>(low + d),
                                                load<size.value>(high + d)};
#pragma unroll
          for (int k = 0; k < CUTS; ++k)
            if (rows[k] != nullptr) packs.w[k] = load<size.value>(rows[k] + d);
          return packs;
        },
        [&](const int64_t d, const auto& packs, auto size) {
          use(d, packs, size, [&](const int e) {
            JoinedEntry at{packs.low.at[e], packs.high.at[e], 0, 0, false};
            at.low = fmax(at.low < 0 ? at.low : 0, -shape.limit);
            at.high = fmin(at.high > 0 ? at.high : 0, shape.limit);
#pragma unroll
            for (int k = 0; k < CUTS; ++k) at.joined += each[k] * double{packs.w[k].at[e]};
            const double left = fabs(at.joined) - shape.threshold;
            at.joined = left > 0 ? copysign(left, at.joined) : 0;
            at.r = fmin(fmax(at.joined, at.low), at.high);
            at.free = left >= 0 && at.joined == at.r;
            return at;
          });
        });
  }
};

// Threads of a block at most: sums of eight half-spaces take more registers than 512 have.
constexpr int PROJECTION_THREADS = 256;

// Team i finds r of sample i: its threads share the entries of each sweep, and its first thread
// decides by the sums what the next one is. Floor: the bytes of low, high, w and r.
template <typename T, int CUTS, int VEC>
__global__ __launch_bounds__(PROJECTION_THREADS,
                             1) void halfspace_projection_whole(const HalfspaceProjection op) {
  const int64_t i = item();
  if (i >= op.samples) return;
  Halfspaces& h = static_cast<Halfspaces*>(dynamic_shared())[threadIdx.y];
  const ProjectionTeam<T, CUTS, VEC> team(op, h, i);
  team.products();
  team.lead([&] {
    const double least = sizeof(T) == 8 ? DBL_MIN : double{FLT_MIN};
    h.begin(op.c + i * op.cuts, static_cast<int>(op.cuts), least);
  });
  const Shape shape = shortest(h, op.p, team);
  team.write(shape, static_cast<T*>(op.r) + i * op.size);
  if (threadIdx.x == 0) op.missed[i] = h.missed();
}

}  // namespace jacfast::cuda
