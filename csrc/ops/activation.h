// The contract of activation_first and activation_second between the ops (checks, allocation) and
// their twins (cpu, cuda).
#pragma once

#include <cstdint>

#include "../dtype.h"
#include "../kernels/stream.h"
#include "../smooth.h"

namespace jacfast {

struct ActivationFirst {
  Smooth kind;
  SmoothParameters<double> parameters;
  Dtype dtype;    // of all tensors
  int64_t size;   // entries of each, at least 1; they lie in one order, without gaps
  const void* x;  // [size]
  const void* g;  // [size]
  void* of_x;     // [size]: g f'(x)
};

struct ActivationSecond {
  Smooth kind;
  SmoothParameters<double> parameters;
  Dtype dtype;    // of all tensors
  int64_t size;   // as above
  const void* x;  // [size]
  const void* g;  // [size]
  const void* u;  // [size]
  void* of_x;     // [size]: u g f''(x)
  void* of_g;     // [size]: u f'(x)
};

namespace cpu {
void activation_first(const ActivationFirst& op, int threads);
void activation_second(const ActivationSecond& op, int threads);
}  // namespace cpu
namespace cuda {
void activation_first(const ActivationFirst& op, Stream stream);
void activation_second(const ActivationSecond& op, Stream stream);
}  // namespace cuda

}  // namespace jacfast
