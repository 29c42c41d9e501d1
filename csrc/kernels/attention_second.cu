// Launches attention_second: a team for each row.
#include "attention_second.cuh"

#include "launch.cuh"

namespace jacfast::cuda {
namespace {

template <typename T, int VEC>
void run(const AttentionSecond& op, Stream stream) {
  launch("attention_second", attention_second_rows<T, VEC>, op.rows, teams_for(op.size, sizeof(T)),
         op, stream);
}

}  // namespace

void attention_second(const AttentionSecond& op, Stream stream) {
  // Packs need 16-byte boundaries at the same entries of all planes. Doubles go one by one: their
  // exponential takes the registers.
  const bool packs = op.size % 4 == 0;
  if (op.dtype == Dtype::f64) return run<double, 1>(op, stream);
  packs ? run<float, 4>(op, stream) : run<float, 1>(op, stream);
}

}  // namespace jacfast::cuda
