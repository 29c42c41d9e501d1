// Launches max_pool, max_pool_scatter and max_pool_gather: one thread for each result.
#include "max_pool.cuh"

#include "launch.cuh"

namespace jacfast::cuda {
namespace {

template <typename Op>
void launch_threads(const char* name, void (*kernel)(Op), const int64_t count, const Op& op,
                    Stream stream) {
  dim3 block = teams_of(256);
  block.y = 1;
  launch(name, kernel, (count + block.x - 1) / block.x, block, op, stream);
}

int64_t windows(const Pooling& pool) { return pool.planes * pool.out_height * pool.out_width; }
int64_t entries(const Pooling& pool) { return pool.planes * pool.height * pool.width; }

}  // namespace

void max_pool(const MaxPool& op, Stream stream) {
  with_type(op.pool.dtype, [&](auto type) {
    launch_threads("max_pool", max_pool_choose<decltype(type)>, windows(op.pool), op, stream);
  });
}

void max_pool_scatter(const MaxPoolScatter& op, Stream stream) {
  with_type(op.pool.dtype, [&](auto type) {
    launch_threads("max_pool_scatter", max_pool_scatter_entries<decltype(type)>, entries(op.pool),
                   op, stream);
  });
}

void max_pool_gather(const MaxPoolGather& op, Stream stream) {
  with_type(op.pool.dtype, [&](auto type) {
    launch_threads("max_pool_gather", max_pool_gather_windows<decltype(type)>, windows(op.pool), op,
                   stream);
  });
}

}  // namespace jacfast::cuda
