// Launches activation_first and activation_second: one thread for each pack of 16 bytes.
#include "activation.cuh"

#include "launch.cuh"

namespace jacfast::cuda {

namespace {

template <typename T, typename Op>
void launch_packs(const char* name, void (*kernel)(Op), const Op& op, Stream stream) {
  dim3 block = teams_of(256);
  block.y = 1;
  const int64_t packs = (op.size + PACK<T> - 1) / PACK<T>;
  launch(name, kernel, (packs + block.x - 1) / block.x, block, op, stream);
}

}  // namespace

void activation_first(const ActivationFirst& op, Stream stream) {
  with_type(op.dtype, [&](auto type) {
    using T = decltype(type);
    launch_packs<T>("activation_first", activation_first_packs<T>, op, stream);
  });
}

void activation_second(const ActivationSecond& op, Stream stream) {
  with_type(op.dtype, [&](auto type) {
    using T = decltype(type);
    launch_packs<T>("activation_second", activation_second_packs<T>, op, stream);
  });
}

}  // namespace jacfast::cuda
