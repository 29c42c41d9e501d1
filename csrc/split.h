// How long rows are shared out: by shape alone, so that sums do not depend on threads or GPU model.
#pragma once

#include <algorithm>
#include <cstdint>

#ifdef __CUDACC__
#define JACFAST_BOTH __host__ __device__
#else
#define JACFAST_BOTH
#endif

namespace jacfast {

// Into how many parts each of `rows` rows of `size` entries is cut: enough for two blocks on each
// of 132 multiprocessors, of at least 2,048 entries (a pack of 16 bytes for each of 512 threads).
inline int64_t row_parts(const int64_t rows, const int64_t size) {
  const int64_t wanted = rows > 0 ? (264 + rows - 1) / rows : 1;
  return std::clamp<int64_t>(wanted, 1, std::max<int64_t>(1, size / 2048));
}

struct Span {
  int64_t begin, end;
};

// Part `index` of a row: a multiple of 32 entries (so that vector loads stay aligned), the last one
// what is left, which may be nothing.
JACFAST_BOTH inline Span part_of(const int64_t size, const int64_t parts, const int64_t index) {
  const int64_t length = ((size + parts - 1) / parts + 31) / 32 * 32;
  const int64_t begin = index * length < size ? index * length : size;
  return {begin, begin + length < size ? begin + length : size};
}

}  // namespace jacfast
