// deepfool_candidate: checks, schema, dispatch. Meaning: jacfast/ops/deepfool_candidate.py.
#include "deepfool_candidate.h"

#include "common.h"

namespace jacfast {
namespace {

void deepfool_candidate(const at::Tensor& w, const at::Tensor& f, const at::Tensor& label,
                        const at::Tensor& nearest_w, const at::Tensor& distance,
                        const at::Tensor& norm, const at::Tensor& winner) {
  check_dim(w, "w", 2);
  check_like(f, "f", w, "w");
  check_shape(f, "f", {w.size(0)});
  check_index(label, "label", w);
  check_like(nearest_w, "nearest.w", w, "w");
  check_shape(nearest_w, "nearest.w", w.sizes());
  check_contiguous(nearest_w, "nearest.w");
  check_index(winner, "nearest.winner", w);
  check_contiguous(winner, "nearest.winner");
  const auto acc = accumulated(w).dtype().toScalarType();
  for (const auto& [tensor, name] :
       {std::pair(distance, "nearest.distance"), std::pair(norm, "nearest.norm")}) {
    check_type(tensor, name, acc);
    check_shape(tensor, name, {w.size(0)});
    check_contiguous(tensor, name);
    TORCH_CHECK_VALUE(tensor.device() == w.device(), name, " must be on ", w.device(), "; got ",
                      tensor.device());
  }

  DeepFoolCandidate op{.dtype = dtype_of(w, "w"), .samples = w.size(0), .size = w.size(1)};
  op.parts = row_parts(op.samples, op.size);
  const at::Tensor rows = with_contiguous_rows(w);
  const at::Tensor values = f.contiguous(), labels = label.contiguous();
  const at::Tensor sumsq = at::empty({op.samples, op.parts}, w.options().dtype(at::kDouble));
  const at::Tensor closer = at::empty({op.samples}, w.options().dtype(at::kBool));
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

TORCH_LIBRARY_FRAGMENT(JACFAST_LIBRARY, m) {
  m.def(
      "deepfool_candidate(Tensor w, Tensor f, Tensor label, Tensor(a!) nearest_w,"
      " Tensor(b!) distance, Tensor(c!) norm, Tensor(d!) winner) -> ()");
}
JACFAST_IMPL(deepfool_candidate)

}  // namespace jacfast
