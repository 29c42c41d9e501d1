// row_norm: checks, allocation, schema, dispatch. Meaning: jacfast/ops/row_norm.py.
#include "row_norm.h"

#include "common.h"

namespace jacfast {
namespace {

RowNormKind kind_of(const c10::string_view name) {
  if (name == "sumsq") return RowNormKind::sumsq;
  if (name == "sumabs") return RowNormKind::sumabs;
  TORCH_CHECK_VALUE(name == "maxabs", "kind must be sumsq, sumabs or maxabs; got ", name);
  return RowNormKind::maxabs;
}

std::tuple<at::Tensor, at::Tensor> row_norm(const at::Tensor& g, const c10::string_view kind) {
  check_dim(g, "g", 2);
  TORCH_CHECK_VALUE(g.size(1) >= 1, "g must have at least one column; got ", g.sizes());
  RowNorm op{
      .kind = kind_of(kind), .dtype = dtype_of(g, "g"), .rows = g.size(0), .size = g.size(1)};
  const bool maximum = op.kind == RowNormKind::maxabs;
  op.parts = row_parts(op.rows, op.size);

  const at::Tensor rows = with_contiguous_rows(g);
  const at::Tensor value = at::empty({op.rows}, accumulated(g));
  const auto longs = g.options().dtype(at::kLong);
  const at::Tensor where = at::empty({maximum ? op.rows : 0}, longs);
  const at::Tensor partial = at::empty({op.rows, op.parts}, g.options().dtype(at::kDouble));
  const at::Tensor partial_where = at::empty({maximum ? op.rows : 0, op.parts}, longs);

  op.stride = rows.stride(0);
  op.g = rows.const_data_ptr();
  op.value = value.mutable_data_ptr();
  op.where = where.mutable_data_ptr<int64_t>();
  op.partial = partial.mutable_data_ptr<double>();
  op.partial_where = partial_where.mutable_data_ptr<int64_t>();
  if (op.rows > 0) {
    JACFAST_RUN(row_norm, op, g);
  }
  return {value, where};
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(JACFAST_LIBRARY, m) {
  m.def("row_norm(Tensor g, str kind) -> (Tensor value, Tensor where)");
}
JACFAST_IMPL(row_norm)

}  // namespace jacfast
