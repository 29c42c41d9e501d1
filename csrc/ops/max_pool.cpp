// max_pool, max_pool_scatter, max_pool_gather: checks, allocation, schemas, dispatch. Meaning:
// jacfast/ops/max_pool.py.
#include "max_pool.h"

#include <array>

#include "common.h"

namespace jacfast {
namespace {

void check_pair(const Sizes pair, const char* name) {
  check(pair.size() == 2 && pair[0] >= 1 && pair[1] >= 1, name,
        " must be two integers, at least 1; got ", pair);
}

// The geometry of pooling the last two dimensions of size `size`, for values like `values`.
Pooling pooling(const Tensor& values, const char* name, const Sizes size, const Sizes kernel,
                const Sizes stride) {
  check_dim(values, name, 4);
  check_pair(kernel, "kernel");
  check_pair(stride, "stride");
  check(kernel[0] <= DEAD && kernel[1] <= DEAD / kernel[0], "kernel must have at most ", int{DEAD},
        " entries; got ", kernel);
  check(size.size() == 2 && kernel[0] <= size[0] && kernel[1] <= size[1],
        "kernel must be no larger than the size it pools, ", size, "; got ", kernel);
  Pooling pool{.dtype = dtype_of(values, name),
               .planes = values.size(0) * values.size(1),
               .height = size[0],
               .width = size[1],
               .kernel_height = kernel[0],
               .kernel_width = kernel[1],
               .out_height = windows_in(size[0], kernel[0], stride[0]),
               .out_width = windows_in(size[1], kernel[1], stride[1])};
  // One window has no next one, however far that would be.
  pool.stride_height = pool.out_height > 1 ? stride[0] : 1;
  pool.stride_width = pool.out_width > 1 ? stride[1] : 1;
  return pool;
}

void check_choice(const Tensor& choice, const Tensor& values, const Pooling& pool) {
  check_type(choice, "choice", ScalarType::Byte);
  check_shape(choice, "choice", {values.size(0), values.size(1), pool.out_height, pool.out_width});
  check_device(choice, "choice", values);
}

std::tuple<Tensor, Tensor> max_pool(const Tensor& x, const Sizes kernel, const Sizes stride,
                                    const bool relu) {
  check_dim(x, "x", 4);
  MaxPool op{.pool = pooling(x, "x", x.sizes().slice(2), kernel, stride), .relu = relu};
  const Tensor planes = made_contiguous(x);
  const std::array<int64_t, 4> windows{x.size(0), x.size(1), op.pool.out_height, op.pool.out_width};
  const Tensor y = empty(x, windows);
  const Tensor choice = empty(x, windows, ScalarType::Byte);
  op.x = planes.const_data_ptr();
  op.y = y.mutable_data_ptr();
  op.choice = choice.mutable_data_ptr<uint8_t>();
  if (op.pool.planes > 0) {
    JACFAST_RUN(max_pool, op, x);
  }
  return {y, choice};
}

Tensor max_pool_scatter(const Tensor& g, const Tensor& choice, const Sizes size, const Sizes kernel,
                        const Sizes stride) {
  MaxPoolScatter op{.pool = pooling(g, "g", size, kernel, stride)};
  check_choice(choice, g, op.pool);
  check_shape(g, "g", choice.sizes());
  const Tensor values = made_contiguous(g), choices = made_contiguous(choice);
  const Tensor out = empty(g, {g.size(0), g.size(1), size[0], size[1]});
  op.g = values.const_data_ptr();
  op.choice = choices.const_data_ptr<uint8_t>();
  op.out = out.mutable_data_ptr();
  if (op.pool.planes > 0) {
    JACFAST_RUN(max_pool_scatter, op, g);
  }
  return out;
}

Tensor max_pool_gather(const Tensor& t, const Tensor& choice, const Sizes kernel,
                       const Sizes stride) {
  check_dim(t, "t", 4);
  MaxPoolGather op{.pool = pooling(t, "t", t.sizes().slice(2), kernel, stride)};
  check_choice(choice, t, op.pool);
  const Tensor values = made_contiguous(t), choices = made_contiguous(choice);
  const Tensor out = empty(t, choice.sizes());
  op.t = values.const_data_ptr();
  op.choice = choices.const_data_ptr<uint8_t>();
  op.out = out.mutable_data_ptr();
  if (op.pool.planes > 0) {
    JACFAST_RUN(max_pool_gather, op, t);
  }
  return out;
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(JACFAST_LIBRARY, m) {
  m.def("max_pool(Tensor x, int[2] kernel, int[2] stride, bool relu) -> (Tensor y, Tensor choice)");
  m.def(
      "max_pool_scatter(Tensor g, Tensor choice, SymInt[2] size, int[2] kernel, int[2] stride)"
      " -> Tensor");
  m.def("max_pool_gather(Tensor t, Tensor choice, int[2] kernel, int[2] stride) -> Tensor");
}
JACFAST_IMPL(max_pool)
JACFAST_IMPL(max_pool_scatter)
JACFAST_IMPL(max_pool_gather)

}  // namespace jacfast
