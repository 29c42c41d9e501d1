// orthonormal_cotangents: checks, allocation, schema, dispatch. Meaning:
// jacfast/ops/orthonormal_cotangents.py.
#include "orthonormal_cotangents.h"

#include "common.h"

namespace jacfast {
namespace {

Tensor orthonormal_cotangents(const Tensor& gaussian, const bool centred) {
  check_dim(gaussian, "gaussian", 3);
  OrthonormalCotangents op{.dtype = dtype_of(gaussian, "gaussian"),
                           .samples = gaussian.size(0),
                           .rows = gaussian.size(1),
                           .classes = gaussian.size(2),
                           .centred = centred};
  check(op.dtype == Dtype::f32 || op.dtype == Dtype::f64,
        "gaussian must be float32 or float64; got ", gaussian.scalar_type());
  check(op.rows <= op.classes - centred, "gaussian must have n <= ", op.classes - centred,
        " rows per sample; got n = ", op.rows);
  const Tensor draw = made_contiguous(gaussian);
  const Tensor out = empty(draw, draw.sizes());
  op.gaussian = draw.const_data_ptr();
  op.out = out.mutable_data_ptr();
  if (out.numel() > 0) {
    JACFAST_RUN(orthonormal_cotangents, op, gaussian);
  }
  return out;
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(JACFAST_LIBRARY, m) {
  m.def("orthonormal_cotangents(Tensor gaussian, bool centred) -> Tensor");
}
JACFAST_IMPL(orthonormal_cotangents)

}  // namespace jacfast
