// The contract of deepfool_candidate between the op (checks) and its twins (cpu, cuda).
#pragma once

#include <cstdint>

#include "../dtype.h"
#include "../kernels/stream.h"

namespace jacfast {

struct DeepFoolCandidate {
  Dtype dtype;           // of w, f and nearest_w
  int64_t samples;       // N
  int64_t size;          // D
  const void* w;         // [N, D], the entries of a row contiguous
  int64_t w_stride;      // of w between samples, in elements
  const void* f;         // [N], contiguous
  const int64_t* label;  // [N], contiguous
  void* nearest_w;       // [N, D], contiguous: the running nearest boundary, changed in place
  void* distance;        // [N], double if dtype is f64, else float; infinite before the first
  void* norm;            // [N], like distance
  int64_t* winner;       // [N], -1 before the first
  int64_t parts;         // blocks that share one sample, from row_parts(N, D)
  double* sumsq;         // [N, parts], scratch
  bool* closer;          // [N], scratch
};

namespace cpu {
void deepfool_candidate(const DeepFoolCandidate& op, int threads);
}
namespace cuda {
void deepfool_candidate(const DeepFoolCandidate& op, Stream stream);
}

}  // namespace jacfast
