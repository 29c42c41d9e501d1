// deepfool_candidate: checks, schema, dispatch. Meaning: jacfast/ops/deepfool_candidate.py.
#include "deepfool_candidate.h"

#include "common.h"

namespace jacfast {
namespace {

void deepfool_candidate(const Tensor& w, const Tensor& f, const Tensor& label,
                        const Tensor& nearest_w, const Tensor& distance, const Tensor& norm,
                        const Tensor& winner) {
  check_dim(w, "w", 2);
  check_like(f, "f", w);
  check_shape(f, "f", {w.size(0)});
  check_index(label, "label", w);
  check_like(nearest_w, "nearest.w", w);
  check_shape(nearest_w, "nearest.w", w.sizes());
  check_contiguous(nearest_w, "nearest.w");
  check_index(winner, "nearest.winner", w);
  check_contiguous(winner, "nearest.winner");
  const auto acc = accumulated(w);
  for (const auto& [tensor, name] :
       {std::pair(distance, "nearest.distance"), std::pair(norm, "nearest.norm")}) {
    check_type(tensor, name, acc);
    check_shape(tensor, name, {w.size(0)});
    check_contiguous(tensor, name);
    check_device(tensor, name, w);
  }

  DeepFoolCandidate op{.dtype = dtype_of(w, "w"), .samples = w.size(0), .size = w.size(1)};
  op.parts = row_parts(op.samples, op.size);
  const Tensor rows = with_contiguous_rows(w);
  const Tensor values = made_contiguous(f), labels = made_contiguous(label);
  const Tensor sumsq = empty(w, {op.samples, op.parts}, ScalarType::Double);
  const Tensor closer = empty(w, {op.samples}, ScalarType::Bool);
  op.w = rows.const_data_ptr();
  op.w_stride = rows.stride(0);
  op.f = values.const_data_ptr();
  op.label = labels.const_data_ptr<int64_t>();
  op.nearest_w = nearest_w.mutable_data_ptr();
  op.distance = distance.mutable_data_ptr();
  op.norm = norm.mutable_data_ptr();
  op.winner = winner.mutable_data_ptr<int64_t>();
  op.sumsq = sumsq.mutable_data_ptr<double>();
  op.closer = closer.mutable_data_ptr<bool>();
  if (op.samples > 0) {
    JACFAST_RUN(deepfool_candidate, op, w);
  }
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(JACFAST_LIBRARY, m) {
  m.def(
      "deepfool_candidate(Tensor w, Tensor f, Tensor label, Tensor(a!) nearest_w,"
      " Tensor(b!) distance, Tensor(c!) norm, Tensor(d!) winner) -> ()");
}
JACFAST_IMPL(deepfool_candidate)

}  // namespace jacfast
