// The contract of halfspace_projection between the op (checks, allocation) and its twins.
#pragma once

#include <cstdint>

#include "../dtype.h"
#include "../kernels/stream.h"

namespace jacfast {

struct HalfspaceProjection {
  Dtype dtype;       // of low, high, w and r: f32 or f64
  double p;          // the norm of r that is to be least: 1, 2 or infinity
  int64_t samples;   // N
  int64_t cuts;      // M, 1 .. HALFSPACES
  int64_t size;      // D
  const void* low;   // [N, D]; above 0: 0
  const void* high;  // [N, D]; below 0: 0
  const void* w;     // [N, M, D]
  const double* c;   // [N, M]
  void* r;           // [N, D]
  double* missed;    // [N]
};

namespace cpu {
void halfspace_projection(const HalfspaceProjection& op, int threads);
}
namespace cuda {
void halfspace_projection(const HalfspaceProjection& op, Stream stream);
}

}  // namespace jacfast
