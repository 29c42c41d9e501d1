// Launches row_norm: the parts of every row, then their join.
#include "row_norm.cuh"

#include "launch.cuh"

namespace jacfast::cuda {
namespace {

template <RowNormKind KIND, typename T>
void run(const RowNorm& op, Stream stream) {
  constexpr int VEC = 16 / sizeof(T);
  const bool packs = aligned(op.g, sizeof(T), {op.stride});
  const int threads = threads_for(part_of(op.size, op.parts, 0).end, sizeof(T));
  launch("row_norm", packs ? row_norm_parts<KIND, T, VEC> : row_norm_parts<KIND, T, 1>,
         op.rows * op.parts, threads, stream, op);
  launch("row_norm", row_norm_join<KIND, Acc<T>>, (op.rows + 127) / 128, 128, stream, op);
}

}  // namespace

void row_norm(const RowNorm& op, Stream stream) {
  with_type(op.dtype, [&](auto type) {
    using T = decltype(type);
    switch (op.kind) {
      case RowNormKind::sumsq: return run<RowNormKind::sumsq, T>(op, stream);
      case RowNormKind::sumabs: return run<RowNormKind::sumabs, T>(op, stream);
      case RowNormKind::maxabs: return run<RowNormKind::maxabs, T>(op, stream);
    }
  });
}

}  // namespace jacfast::cuda
