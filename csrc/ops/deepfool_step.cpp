// deepfool_step: checks, allocation, schema, dispatch. Meaning: jacfast/ops/deepfool_step.py.
#include "deepfool_step.h"

#include "common.h"

namespace jacfast {
namespace {

std::tuple<Tensor, Tensor, Tensor> deepfool_step(const Tensor& logits, const Tensor& rows,
                                                 const Tensor& origin, const double floor) {
  check_dim(logits, "logits", 2);
  check_dim(rows, "rows", 3);
  check_like(rows, "rows", logits);
  check_shape(rows, "rows", {logits.size(0), logits.size(1), rows.size(2)});
  check_index(origin, "origin", logits);
  check(logits.size(1) >= 1, "logits must have at least one class; got ", logits.sizes());

  DeepFoolStep op{.dtype = dtype_of(logits, "logits"),
                  .samples = rows.size(0),
                  .classes = rows.size(1),
                  .size = rows.size(2),
                  .floor = floor};
  op.parts = row_parts(op.samples, op.size);
  const Tensor z = made_contiguous(logits), labels = made_contiguous(origin);
  const Tensor jacobian = with_contiguous_rows(rows);
  const Tensor r = empty(rows, {op.samples, op.size});
  const Tensor winner = empty(origin, {op.samples});
  const Tensor distance = empty(logits, {op.samples}, accumulated(logits));
  const Tensor sumsq = empty(logits, {op.samples, op.parts, op.classes}, ScalarType::Double);

  op.logits = z.const_data_ptr();
  op.rows = jacobian.const_data_ptr();
  op.sample_stride = jacobian.stride(0);
  op.class_stride = jacobian.stride(1);
  op.origin = labels.const_data_ptr<int64_t>();
  op.r = r.mutable_data_ptr();
  op.winner = winner.mutable_data_ptr<int64_t>();
  op.distance = distance.mutable_data_ptr();
  op.sumsq = sumsq.mutable_data_ptr<double>();
  if (op.samples > 0) {
    JACFAST_RUN(deepfool_step, op, rows);
  }
  return {r, winner, distance};
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(JACFAST_LIBRARY, m) {
  m.def(
      "deepfool_step(Tensor logits, Tensor rows, Tensor origin, float floor)"
      " -> (Tensor r, Tensor winner, Tensor distance)");
}
JACFAST_IMPL(deepfool_step)

}  // namespace jacfast
