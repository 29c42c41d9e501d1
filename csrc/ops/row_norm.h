// The contract of row_norm between the op (checks, allocation) and its twins (cpu, cuda).
#pragma once

#include <cstdint>

#include "../dtype.h"
#include "../kernels/stream.h"

namespace jacfast {

enum class RowNormKind { sumsq, sumabs, maxabs };

struct RowNorm {
  RowNormKind kind;
  Dtype dtype;             // of g
  int64_t rows;            // R
  int64_t size;            // D, at least 1
  int64_t stride;          // of g between rows, in elements; the entries of a row are contiguous
  const void* g;           // [R, D]
  void* value;             // [R], double if dtype is f64, else float
  int64_t* where;          // [R], first entry that attains the maximum; written for maxabs only
  int64_t parts;           // blocks that share one row, from row_parts(R, D)
  double* partial;         // [R, parts], scratch: sums or maxima of the parts
  int64_t* partial_where;  // [R, parts], scratch for maxabs
};

namespace cpu {
void row_norm(const RowNorm& op, int threads);
}
namespace cuda {
void row_norm(const RowNorm& op, Stream stream);
}

}  // namespace jacfast
