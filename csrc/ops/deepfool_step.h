// The contract of deepfool_step between the op (checks, allocation) and its twins (cpu, cuda).
#pragma once

#include <cstdint>

#include "../dtype.h"
#include "../kernels/stream.h"

namespace jacfast {

struct DeepFoolStep {
  Dtype dtype;            // of logits, rows and r
  int64_t samples;        // N
  int64_t classes;        // C, at least 1
  int64_t size;           // D
  const void* logits;     // [N, C], contiguous
  const void* rows;       // [N, C, D], the entries of a row contiguous
  int64_t sample_stride;  // of rows between samples, in elements
  int64_t class_stride;   // of rows between classes, in elements
  const int64_t* origin;  // [N], the class to leave; a sample with one outside 0 .. C-1 stalls
  double floor;           // added to the length of the step
  void* r;                // [N, D], contiguous
  int64_t* winner;        // [N], -1 where stalled
  void* distance;         // [N], double if dtype is f64, else float; infinite where stalled
  int64_t parts;          // blocks that share one sample, from row_parts(N, D)
  double* sumsq;          // [N, parts, C], scratch: sums of squares of w_k
};

namespace cpu {
void deepfool_step(const DeepFoolStep& op, int threads);
}
namespace cuda {
void deepfool_step(const DeepFoolStep& op, Stream stream);
}

}  // namespace jacfast
