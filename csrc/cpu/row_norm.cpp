// row_norm on the CPU: each task measures one part of one row, then the parts are joined in order.
#include "../ops/row_norm.h"

#include "../split.h"
#include "parallel.h"
#include "vector.h"

namespace jacfast::cpu {
namespace {

template <typename T>
JACFAST_CLONES double sumabs(const T* g, const int64_t size) {
  return lane_sum(size, [g](const int64_t d) { return std::abs(double(wide(g[d]))); });
}

// The largest |g| and whether there is a NaN, which no comparison finds.
template <typename T>
JACFAST_CLONES Acc<T> maxabs(const T* g, const int64_t size, bool& nan) {
  Acc<T> lanes[LANES] = {};
  int32_t bad[LANES] = {};
  const int64_t whole = size - size % LANES;
  for (int64_t d = 0; d < whole; d += LANES)
    for (int64_t l = 0; l < LANES; ++l) {
      const Acc<T> v = std::abs(wide(g[d + l]));
      lanes[l] = v > lanes[l] ? v : lanes[l];
      bad[l] |= v != v;
    }
  for (int64_t d = whole; d < size; ++d) {
    const Acc<T> v = std::abs(wide(g[d]));
    lanes[d - whole] = v > lanes[d - whole] ? v : lanes[d - whole];
    bad[d - whole] |= v != v;
  }
  Acc<T> best = 0;
  nan = false;
  for (int64_t l = 0; l < LANES; ++l) {
    best = lanes[l] > best ? lanes[l] : best;
    nan |= bad[l] != 0;
  }
  return best;
}

template <typename T>
void maxabs_part(const T* g, const int64_t size, double& value, int64_t& where) {
  value = -1, where = 0;  // of an empty part: less than any other
  if (size == 0) return;
  bool nan = false;
  const Acc<T> best = maxabs(g, size, nan);
  int64_t d = 0;  // the part is in cache now: find the first NaN, or the first maximum
  while (nan ? wide(g[d]) == wide(g[d]) : std::abs(wide(g[d])) != best) ++d;
  value = std::abs(wide(g[d]));
  where = d;
}

// Join the parts of one row: sums add up; the first NaN, else the first largest, is the maximum,
// and its place is written.
double join(const RowNorm& op, const int64_t row) {
  const double* partial = op.partial + row * op.parts;
  double value = partial[0];
  if (op.kind != RowNormKind::maxabs) {
    for (int64_t p = 1; p < op.parts; ++p) value += partial[p];
    return value;
  }
  int64_t at = 0;
  for (int64_t p = 1; p < op.parts && value == value; ++p)
    if (partial[p] > value || partial[p] != partial[p]) value = partial[at = p];
  op.where[row] = op.partial_where[row * op.parts + at];
  return value;
}

template <typename T>
void run(const RowNorm& op, const int threads) {
  const T* g = static_cast<const T*>(op.g);
  parallel_for(op.rows * op.parts, op.rows * op.size, threads, [&](const int64_t task) {
    const auto [begin, end] = part_of(op.size, op.parts, task % op.parts);
    const T* from = g + task / op.parts * op.stride + begin;
    const int64_t size = end - begin;
    switch (op.kind) {
      case RowNormKind::sumsq: op.partial[task] = sumsq(from, size); break;
      case RowNormKind::sumabs: op.partial[task] = sumabs(from, size); break;
      case RowNormKind::maxabs:
        maxabs_part(from, size, op.partial[task], op.partial_where[task]);
        op.partial_where[task] += begin;
    }
  });
  for (int64_t row = 0; row < op.rows; ++row)
    static_cast<Acc<T>*>(op.value)[row] = static_cast<Acc<T>>(join(op, row));
}

}  // namespace

void row_norm(const RowNorm& op, const int threads) {
  with_type(op.dtype, [&](auto type) { run<decltype(type)>(op, threads); });
}

}  // namespace jacfast::cpu
