// What host code needs of the CUDA side without a CUDA header: the stream, and how rows are split.
#pragma once

#include <algorithm>
#include <cstdint>

struct CUstream_st;

namespace jacfast::cuda {

using Stream = CUstream_st*;

// How many blocks share one row of `size` entries, so that few long rows still fill a GPU: about
// 1,024 blocks in all, at least 4,096 entries each. It depends on the shape alone, so that sums
// are taken in the same order, with the same bits, on every device.
inline int64_t row_parts(const int64_t rows, const int64_t size) {
  const int64_t wanted = rows > 0 ? (1024 + rows - 1) / rows : 1;
  return std::clamp<int64_t>(wanted, 1, std::max<int64_t>(1, size / 4096));
}

}  // namespace jacfast::cuda

namespace jacfast {
using cuda::Stream;
}
