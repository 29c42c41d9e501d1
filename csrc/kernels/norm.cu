// Launches norm_first and norm_second: the rows; then, where they are wanted, the gradients of the
// parameters, by parts of the samples, and their join.
#include "launch.cuh"
#include "norm_parameters.cuh"
#include "norm_rows.cuh"

namespace jacfast::cuda {
namespace {

// Say whether rows of all tensors have their 16-byte boundaries at the same entries.
bool alike(const Norm& op) {
  const auto past = [](const void* from) { return reinterpret_cast<uintptr_t>(from) % 16; };
  return past(op.x) == past(op.g) && (!op.second() || past(op.x) == past(op.u));
}

template <bool SECOND, typename T>
void run(const Norm& op, Stream stream) {
  constexpr int PACK = 16 / sizeof(T);
  const char* name = SECOND ? "norm_second" : "norm_first";
  const auto rows = alike(op) ? norm_rows<SECOND, T, PACK> : norm_rows<SECOND, T, 1>;
  const int64_t stretch = op.size == 1 ? op.row_size() : op.size;  // of one weight, or of one each
  launch(name, rows, op.rows(), teams_for(stretch, sizeof(T)), op, stream);
  if (op.of_parameters == nullptr) return;
  dim3 threads = teams_of(128);
  threads.y = 1;
  const auto tiles = [&](const int64_t items) { return (items + threads.x - 1) / threads.x; };
  if (op.size == 1)
    launch(name, norm_columns<SECOND, T>, op.parts * tiles(op.channels), threads, op, stream);
  else
    launch(name, norm_channels<SECOND, T>, op.parts * op.channels, teams_for(op.size, sizeof(T)),
           op, stream);
  launch(name, norm_join<Acc<T>>, tiles(op.parameters() * op.channels), threads, op, stream);
}

}  // namespace

void norm(const Norm& op, Stream stream) {
  with_type(op.dtype, [&](auto type) {
    using T = decltype(type);
    op.second() ? run<true, T>(op, stream) : run<false, T>(op, stream);
  });
}

}  // namespace jacfast::cuda
