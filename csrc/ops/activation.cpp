// activation_first and activation_second: checks, allocation, schemas, dispatch. Meaning:
// jacfast/ops/activation.py.
#include "activation.h"

#include <array>

#include "common.h"

namespace jacfast {
namespace {

constexpr std::array KINDS = {"gelu", "gelu_tanh", "silu", "softplus", "sigmoid",
                              "tanh", "elu",       "mish", "hardswish"};

Smooth kind_of(const std::string& name) {
  for (size_t i = 0; i < KINDS.size(); ++i)
    if (name == KINDS[i]) return static_cast<Smooth>(i);
  check(false, "kind must be one of gelu, gelu_tanh, silu, softplus, sigmoid, tanh, elu, mish, ",
        "hardswish; got ", name);
  return {};
}

// Memory for a result, in the layout of x where that has no gaps.
Tensor result_like(const Tensor& x) {
  return allocated(x, [&] { return torch::stable::empty_like(x); });
}

bool lies_like(const Tensor& tensor, const Tensor& other) {
  for (int64_t d = 0; d < other.dim(); ++d)
    if (other.size(d) > 1 && tensor.stride(d) != other.stride(d)) return false;
  return true;
}

// The tensor itself if its entries lie as those of a result, else a copy where they do.
Tensor in_order_of(const Tensor& result, const Tensor& tensor) {
  if (lies_like(tensor, result)) return tensor;
  Tensor copy = result_like(result);
  torch::stable::copy_(copy, tensor);
  return copy;
}

void check_same(const Tensor& tensor, const char* name, const Tensor& x) {
  check_like(tensor, name, x);
  check_shape(tensor, name, x.sizes());
}

Tensor activation_first(const Tensor& x, const Tensor& g, const std::string& kind,
                        const double first, const double second, const double third) {
  check_same(g, "g", x);
  ActivationFirst op{.kind = kind_of(kind),
                     .parameters = {first, second, third},
                     .dtype = dtype_of(x, "x"),
                     .size = x.numel()};
  const Tensor of_x = result_like(x), xs = in_order_of(of_x, x), gs = in_order_of(of_x, g);
  op.x = xs.const_data_ptr();
  op.g = gs.const_data_ptr();
  op.of_x = of_x.mutable_data_ptr();
  if (op.size > 0) {
    JACFAST_RUN(activation_first, op, x);
  }
  return of_x;
}

std::tuple<Tensor, Tensor> activation_second(const Tensor& x, const Tensor& g, const Tensor& u,
                                             const std::string& kind, const double first,
                                             const double second, const double third) {
  check_same(g, "g", x);
  check_same(u, "u", x);
  ActivationSecond op{.kind = kind_of(kind),
                      .parameters = {first, second, third},
                      .dtype = dtype_of(x, "x"),
                      .size = x.numel()};
  const Tensor of_x = result_like(x), of_g = result_like(x);
  const Tensor xs = in_order_of(of_x, x), gs = in_order_of(of_x, g), us = in_order_of(of_x, u);
  op.x = xs.const_data_ptr();
  op.g = gs.const_data_ptr();
  op.u = us.const_data_ptr();
  op.of_x = of_x.mutable_data_ptr();
  op.of_g = of_g.mutable_data_ptr();
  if (op.size > 0) {
    JACFAST_RUN(activation_second, op, x);
  }
  return {of_x, of_g};
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(JACFAST_LIBRARY, m) {
  m.def(
      "activation_first(Tensor x, Tensor g, str kind, float first, float second, float third)"
      " -> Tensor");
  m.def(
      "activation_second(Tensor x, Tensor g, Tensor u, str kind, float first, float second,"
      " float third) -> (Tensor of_x, Tensor of_g)");
}
JACFAST_IMPL(activation_first)
JACFAST_IMPL(activation_second)

}  // namespace jacfast
