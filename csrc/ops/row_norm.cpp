// row_norm: checks, allocation, schema, dispatch. Meaning: jacfast/ops/row_norm.py.
#include "row_norm.h"

#include "common.h"

namespace jacfast {
namespace {

RowNormKind kind_of(const std::string& name) {
  if (name == "sumsq") return RowNormKind::sumsq;
  if (name == "sumabs") return RowNormKind::sumabs;
  check(name == "maxabs", "kind must be sumsq, sumabs or maxabs; got ", name);
  return RowNormKind::maxabs;
}

std::tuple<Tensor, Tensor> row_norm(const Tensor& g, const std::string& kind) {
  check_dim(g, "g", 2);
  check(g.size(1) >= 1, "g must have at least one column; got ", g.sizes());
  RowNorm op{
      .kind = kind_of(kind), .dtype = dtype_of(g, "g"), .rows = g.size(0), .size = g.size(1)};
  const bool maximum = op.kind == RowNormKind::maxabs;
  op.parts = row_parts(op.rows, op.size);

  const Tensor rows = with_contiguous_rows(g);
  const Tensor value = empty(g, {op.rows}, accumulated(g));
  const Tensor where = empty(g, {maximum ? op.rows : 0}, ScalarType::Long);
  const Tensor partial = empty(g, {op.rows, op.parts}, ScalarType::Double);
  const Tensor partial_where = empty(g, {maximum ? op.rows : 0, op.parts}, ScalarType::Long);

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

STABLE_TORCH_LIBRARY_FRAGMENT(JACFAST_LIBRARY, m) {
  m.def("row_norm(Tensor g, str kind) -> (Tensor value, Tensor where)");
}
JACFAST_IMPL(row_norm)

}  // namespace jacfast
