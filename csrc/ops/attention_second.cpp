// attention_second: checks, schema, dispatch. Meaning: jacfast/ops/attention_second.py.
#include "attention_second.h"

#include "common.h"

namespace jacfast {
namespace {

void attention_second(Tensor tile) {
  check_dim(tile, "tile", 3);
  check(tile.size(0) == 4, "tile must have shape [4, R, S]; got ", tile.sizes());
  check_contiguous(tile, "tile");
  const AttentionSecond op{.dtype = dtype_of(tile, "tile"),
                           .rows = tile.size(1),
                           .size = tile.size(2),
                           .tile = tile.mutable_data_ptr()};
  check(op.dtype == Dtype::f32 || op.dtype == Dtype::f64, "tile must be float32 or float64; got ",
        tile.scalar_type());
  if (op.rows > 0 && op.size > 0) {
    JACFAST_RUN(attention_second, op, tile);
  }
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(JACFAST_LIBRARY, m) {
  m.def("attention_second(Tensor(a!) tile) -> ()");
}
JACFAST_IMPL(attention_second)

}  // namespace jacfast
