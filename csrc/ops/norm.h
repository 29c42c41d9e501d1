// The contract of norm_first and norm_second between the ops (checks, allocation) and their twin
// (cpu, cuda): one struct for both, as the second has what the first has, and more.
#pragma once

#include <algorithm>
#include <cstdint>

#include "../dtype.h"
#include "../kernels/stream.h"
#include "../split.h"

namespace jacfast {

// Entries of a part of the samples at least, and parts at most, for sums over samples.
constexpr int64_t NORM_PART = 16384, NORM_PARTS = 64;

// Bytes for what sums over samples know of a row, at most.
constexpr int64_t NORM_STATS = 48;

// Into how many parts the samples go for the sums over them, of none into one: by shape alone.
inline int64_t norm_parts(const int64_t samples, const int64_t entries) {
  return std::max<int64_t>(1, std::min({samples * entries / NORM_PART, samples, NORM_PARTS}));
}

struct Norm {
  Dtype dtype;       // of all tensors but the weight
  int64_t samples;   // N, at least 1
  int64_t channels;  // C, at least 1
  int64_t size;      // S, at least 1
  int64_t groups;    // G, which divides C; a row is what a sample has in a group
  bool centred;      // whether the mean of a row is taken off
  double eps;
  const void* weight;   // [C] in float, double for f64; null: ones
  const void* x;        // [N, C, S]
  const void* g;        // [N, C, S]
  const void* u;        // [N, C, S]; null: the first derivative
  void* of_x;           // [N, C, S]
  void* of_g;           // [N, C, S]; null in the first derivative
  void* of_parameters;  // [2, C] like the weight, [1, C] in the second; null: not wanted
  int64_t parts;        // norm_parts
  double* partial;      // [P, 2, C], [P, 1, C] in the second, where of_parameters is wanted
  void* stats;          // [N G, NORM_STATS] bytes, likewise: what these know of a row (cuda)

  JACFAST_BOTH bool second() const { return u != nullptr; }
  JACFAST_BOTH int64_t rows() const { return samples * groups; }
  JACFAST_BOTH int64_t row_channels() const { return channels / groups; }
  JACFAST_BOTH int64_t row_size() const { return row_channels() * size; }
  // How many gradients of parameters there are: of weight and bias, or of the weight.
  JACFAST_BOTH int64_t parameters() const { return second() ? 1 : 2; }
  // The samples of a part.
  JACFAST_BOTH Span part(const int64_t index) const {
    return {samples * index / parts, samples * (index + 1) / parts};
  }
};

namespace cpu {
void norm(const Norm& op, int threads);
}
namespace cuda {
void norm(const Norm& op, Stream stream);
}

}  // namespace jacfast
