// The contract of attention_second between the op (checks) and its twins (cpu, cuda).
#pragma once

#include <cstdint>

#include "../dtype.h"
#include "../kernels/stream.h"

namespace jacfast {

struct AttentionSecond {
  Dtype dtype;   // f32 or f64
  int64_t rows;  // R
  int64_t size;  // S, at least 1
  void* tile;    // [4, R, S]: scores, dP, E, F; then P, dS, W, G
};

namespace cpu {
void attention_second(const AttentionSecond& op, int threads);
}
namespace cuda {
void attention_second(const AttentionSecond& op, Stream stream);
}

}  // namespace jacfast
