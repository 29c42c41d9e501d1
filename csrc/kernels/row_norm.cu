// Launches row_norm: one kernel where a team has a row to itself, else the parts and their join.
#include "row_norm.cuh"

#include "launch.cuh"

namespace jacfast::cuda {
namespace {

template <RowNormKind KIND, typename T>
void run(const RowNorm& op, Stream stream) {
  const dim3 teams = teams_for(part_of(op.size, op.parts, 0).end, sizeof(T));
  if (op.parts == 1) {
    launch("row_norm", row_norm_whole<KIND, T>, op.rows, teams, op, stream);
    return;
  }
  launch("row_norm", row_norm_parts<KIND, T>, op.rows * op.parts, teams, op, stream);
  launch("row_norm", row_norm_join<KIND, Acc<T>>, op.rows, teams_of(32), op, stream);
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
