// halfspace_projection: checks, allocation, schema, dispatch. Meaning:
// jacfast/ops/halfspace_projection.py.
#include "halfspace_projection.h"

#include <cmath>

#include "../nonnegative.h"
#include "common.h"

namespace jacfast {
namespace {

std::tuple<Tensor, Tensor> halfspace_projection(const Tensor& low, const Tensor& high,
                                                const Tensor& w, const Tensor& c, const double p) {
  check_dim(low, "low", 2);
  check_dim(w, "w", 3);
  check_like(high, "high", low);
  check_like(w, "w", low);
  check_shape(high, "high", low.sizes());
  check_shape(w, "w", {low.size(0), w.size(1), low.size(1)});
  check_type(c, "c", ScalarType::Double);
  check_device(c, "c", low);
  check_shape(c, "c", {w.size(0), w.size(1)});
  check(w.size(1) >= 1 && w.size(1) <= HALFSPACES, "w must have 1 to ", HALFSPACES,
        " half-spaces of each sample; got ", w.sizes());
  check(p == 1 || p == 2 || p == INFINITY, "p must be 1, 2 or inf; got ", p);
  HalfspaceProjection op{.dtype = dtype_of(low, "low"),
                         .p = p,
                         .samples = w.size(0),
                         .cuts = w.size(1),
                         .size = w.size(2)};
  check(op.dtype == Dtype::f32 || op.dtype == Dtype::f64, "low must be float32 or float64; got ",
        low.scalar_type());

  const Tensor lows = made_contiguous(low), highs = made_contiguous(high);
  const Tensor rows = made_contiguous(w), bounds = made_contiguous(c);
  const Tensor r = empty(low, low.sizes()), missed = empty(c, {op.samples});
  op.low = lows.const_data_ptr();
  op.high = highs.const_data_ptr();
  op.w = rows.const_data_ptr();
  op.c = bounds.const_data_ptr<double>();
  op.r = r.mutable_data_ptr();
  op.missed = missed.mutable_data_ptr<double>();
  if (op.samples > 0) {
    JACFAST_RUN(halfspace_projection, op, low);
  }
  return {r, missed};
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(JACFAST_LIBRARY, m) {
  m.def(
      "halfspace_projection(Tensor low, Tensor high, Tensor w, Tensor c, float p)"
      " -> (Tensor r, Tensor missed)");
}
JACFAST_IMPL(halfspace_projection)

}  // namespace jacfast
