// Launches max_pool, max_pool_scatter and max_pool_gather: one thread for each result.
#include "max_pool.cuh"

#include "launch.cuh"

// Entries in a launch at most. The emulator tries few.
#ifndef JACFAST_MAX_ENTRIES
#define JACFAST_MAX_ENTRIES (int64_t{1} << 30)
#endif

namespace jacfast::cuda {
namespace {

// Launch `kernel` with `each` threads for a plane, for as many planes at a time as 32 bits number.
// `cells`: planes are divided into cells of 2 x 2, not into entries.
template <typename Op>
void launch_planes(const char* name, void (*kernel)(Pooled<Op>), const int64_t each, const Op& op,
                   Stream stream, const bool cells = false) {
  const Pooling& pool = op.pool;
  const int64_t size = pool.height * pool.width;
  if (size > std::numeric_limits<int32_t>::max())
    throw std::runtime_error(std::string(name) + ": a plane of " + std::to_string(size) +
                             " entries has more than the kernels number");
  const int64_t most = std::max<int64_t>(1, JACFAST_MAX_ENTRIES / size);
  const auto narrowed = [](const int64_t number) { return static_cast<int>(number); };
  Planes planes{.first = 0,
                .threads = 0,
                .height = narrowed(pool.height),
                .width = narrowed(pool.width),
                .kernel_height = narrowed(pool.kernel_height),
                .kernel_width = narrowed(pool.kernel_width),
                .out_height = narrowed(pool.out_height),
                .out_width = narrowed(pool.out_width),
                .stride_height = Divisor(pool.stride_height),
                .stride_width = Divisor(pool.stride_width),
                .by_width = Divisor(cells ? (pool.width + 1) / 2 : pool.width),
                .by_height = Divisor(cells ? (pool.height + 1) / 2 : pool.height),
                .by_out_width = Divisor(pool.out_width),
                .by_out_height = Divisor(pool.out_height)};
  dim3 block = teams_of(256);
  block.y = 1;
  for (; planes.first < pool.planes; planes.first += most) {
    planes.threads = narrowed(std::min(most, pool.planes - planes.first) * each);
    launch(name, kernel, (planes.threads - 1) / block.x + 1, block, Pooled<Op>{op, planes}, stream);
  }
}

int64_t windows_of(const Pooling& pool) { return pool.out_height * pool.out_width; }
bool two_by_two(const Pooling& pool) { return pool.kernel_height == 2 && pool.kernel_width == 2; }

}  // namespace

void max_pool(const MaxPool& op, Stream stream) {
  with_type(op.pool.dtype, [&](auto type) {
    using T = decltype(type);
    const auto kernel = two_by_two(op.pool) ? max_pool_choose<T, 2> : max_pool_choose<T, 0>;
    launch_planes("max_pool", kernel, windows_of(op.pool), op, stream);
  });
}

void max_pool_scatter(const MaxPoolScatter& op, Stream stream) {
  const Pooling& pool = op.pool;
  const bool cells = two_by_two(pool) && pool.stride_height == 2 && pool.stride_width == 2;
  with_type(pool.dtype, [&](auto type) {
    using T = decltype(type);
    if (cells)
      launch_planes("max_pool_scatter", max_pool_scatter_cells<T>,
                    (pool.height + 1) / 2 * ((pool.width + 1) / 2), op, stream, true);
    else
      launch_planes("max_pool_scatter", max_pool_scatter_entries<T>, pool.height * pool.width, op,
                    stream);
  });
}

void max_pool_gather(const MaxPoolGather& op, Stream stream) {
  with_type(op.pool.dtype, [&](auto type) {
    using T = decltype(type);
    const auto kernel =
        two_by_two(op.pool) ? max_pool_gather_windows<T, 2> : max_pool_gather_windows<T, 0>;
    launch_planes("max_pool_gather", kernel, windows_of(op.pool), op, stream);
  });
}

}  // namespace jacfast::cuda
