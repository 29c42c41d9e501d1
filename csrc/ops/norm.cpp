// norm_first and norm_second: checks, allocation, schemas, dispatch. Meaning: jacfast/ops/norm.py.
#include "norm.h"

#include <optional>

#include "common.h"

namespace jacfast {
namespace {

// Memory of a call, to be held until its kernels are launched.
struct Held {
  Tensor x, g, u, partial, stats;
  std::optional<Tensor> weight;
};

void check_same(const Tensor& tensor, const char* name, const Tensor& x) {
  check_like(tensor, name, x);
  check_shape(tensor, name, x.sizes());
}

Norm described(const Tensor& x, const std::optional<Tensor>& weight, const double eps,
               const int64_t groups, const bool centred, Held& held) {
  check_dim(x, "x", 3);
  check(groups >= 1 && x.size(1) % groups == 0, "groups must divide the ", x.size(1),
        " channels; got ", groups);
  Norm op{.dtype = dtype_of(x, "x"),
          .samples = x.size(0),
          .channels = x.size(1),
          .size = x.size(2),
          .groups = groups,
          .centred = centred,
          .eps = eps};
  if (weight.has_value()) {
    check_type(*weight, "weight", accumulated(x));
    check_device(*weight, "weight", x);
    check_shape(*weight, "weight", {op.channels});
    held.weight = made_contiguous(*weight);
    op.weight = held.weight->const_data_ptr();
  }
  held.x = made_contiguous(x);
  op.x = held.x.const_data_ptr();
  op.parts = norm_parts(op.samples, op.channels * op.size);
  return op;
}

// Run `op` after making room for what is wanted; return the gradients of parameters, of no channel
// where they are not.
Tensor run(Norm& op, const Tensor& x, const bool parameters, Held& held) {
  Tensor found = empty(x, {op.parameters(), parameters ? op.channels : 0}, accumulated(x));
  if (x.numel() == 0) return torch::stable::zero_(found);
  if (parameters) {
    op.of_parameters = found.mutable_data_ptr();
    held.partial = empty(x, {op.parts, op.parameters(), op.channels}, ScalarType::Double);
    op.partial = held.partial.mutable_data_ptr<double>();
    held.stats = empty(x, {op.rows(), NORM_STATS}, ScalarType::Byte);
    op.stats = held.stats.mutable_data_ptr();
  }
  JACFAST_RUN(norm, op, x);
  return found;
}

std::tuple<Tensor, Tensor> norm_first(const Tensor& x, const Tensor& g,
                                      const std::optional<Tensor>& weight, const double eps,
                                      const int64_t groups, const bool centred,
                                      const bool parameters) {
  Held held;
  check_same(g, "g", x);
  Norm op = described(x, weight, eps, groups, centred, held);
  held.g = made_contiguous(g);
  op.g = held.g.const_data_ptr();
  const Tensor of_x = empty(x, x.sizes());
  op.of_x = of_x.mutable_data_ptr();
  return {of_x, run(op, x, parameters, held)};
}

std::tuple<Tensor, Tensor, Tensor> norm_second(const Tensor& x, const Tensor& g, const Tensor& u,
                                               const std::optional<Tensor>& weight,
                                               const double eps, const int64_t groups,
                                               const bool centred, const bool parameters) {
  Held held;
  check_same(g, "g", x);
  check_same(u, "u", x);
  Norm op = described(x, weight, eps, groups, centred, held);
  held.g = made_contiguous(g);
  held.u = made_contiguous(u);
  op.g = held.g.const_data_ptr();
  op.u = held.u.const_data_ptr();
  const Tensor of_x = empty(x, x.sizes()), of_g = empty(x, x.sizes());
  op.of_x = of_x.mutable_data_ptr();
  op.of_g = of_g.mutable_data_ptr();
  return {of_x, of_g, run(op, x, parameters, held)};
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(JACFAST_LIBRARY, m) {
  m.def(
      "norm_first(Tensor x, Tensor g, Tensor? weight, float eps, int groups, bool centred,"
      " bool parameters) -> (Tensor of_x, Tensor of_parameters)");
  m.def(
      "norm_second(Tensor x, Tensor g, Tensor u, Tensor? weight, float eps, int groups,"
      " bool centred, bool parameters) -> (Tensor of_x, Tensor of_g, Tensor of_parameters)");
}
JACFAST_IMPL(norm_first)
JACFAST_IMPL(norm_second)

}  // namespace jacfast
