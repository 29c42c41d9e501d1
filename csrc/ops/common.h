// What every op needs on the host: checks in words, the element type, threads, the stream.
#pragma once

#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <torch/library.h>

#ifdef JACFAST_CUDA
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#endif

#include "../dtype.h"
#include "../split.h"

namespace jacfast {

// The public functions in Python check their arguments in words; these checks are for whoever calls
// torch.ops.jacfast directly, and keep the kernels inside their arrays.
inline void check_shape(const at::Tensor& tensor, const char* name, at::IntArrayRef shape) {
  TORCH_CHECK_VALUE(tensor.sizes() == shape, name, " must have shape ", shape, "; got ",
                    tensor.sizes());
}
inline void check_dim(const at::Tensor& tensor, const char* name, const int64_t dim) {
  TORCH_CHECK_VALUE(tensor.dim() == dim, name, " must have ", dim, " dimensions; got shape ",
                    tensor.sizes());
}
inline void check_type(const at::Tensor& tensor, const char* name, const at::ScalarType type) {
  TORCH_CHECK_TYPE(tensor.scalar_type() == type, name, " must have dtype ", type, "; got ",
                   tensor.scalar_type());
}
inline void check_like(const at::Tensor& tensor, const char* name, const at::Tensor& other,
                       const char* other_name) {
  check_type(tensor, name, other.scalar_type());
  TORCH_CHECK_VALUE(tensor.device() == other.device(), name, " must be on the device of ",
                    other_name, ", ", other.device(), "; got ", tensor.device());
}
inline void check_index(const at::Tensor& tensor, const char* name, const at::Tensor& other) {
  check_type(tensor, name, at::kLong);
  check_shape(tensor, name, {other.size(0)});
  TORCH_CHECK_VALUE(tensor.device() == other.device(), name, " must be on ", other.device(),
                    "; got ", tensor.device());
}
inline void check_contiguous(const at::Tensor& tensor, const char* name) {
  TORCH_CHECK_VALUE(tensor.is_contiguous(), name, " must be contiguous; got strides ",
                    tensor.strides());
}

inline Dtype dtype_of(const at::Tensor& tensor, const char* name) {
  switch (tensor.scalar_type()) {
    case at::kFloat: return Dtype::f32;
    case at::kDouble: return Dtype::f64;
    case at::kHalf: return Dtype::f16;
    case at::kBFloat16: return Dtype::bf16;
    default:
      TORCH_CHECK_TYPE(false, name, " must be float32, float64, float16 or bfloat16; got ",
                       tensor.scalar_type());
  }
}

// The type of results of accumulation: float32 for half types.
inline at::TensorOptions accumulated(const at::Tensor& tensor) {
  return tensor.options().dtype(tensor.scalar_type() == at::kDouble ? at::kDouble : at::kFloat);
}

// The tensor itself if the entries of its last dimension are contiguous, else a contiguous copy.
inline at::Tensor with_contiguous_rows(const at::Tensor& tensor) {
  const bool fine = tensor.size(-1) <= 1 || tensor.stride(-1) == 1;
  return fine ? tensor : tensor.contiguous();
}

inline int cpu_threads() { return at::in_parallel_region() ? 1 : at::get_num_threads(); }

// Run an op's twin for the device of `tensor`, on its current stream. The tests build the ops once
// more, under another name, over the emulated CUDA kernels.
#if defined(JACFAST_EMULATED)
#define JACFAST_LIBRARY jacfast_emulated
#define JACFAST_RUN(name, op, tensor) cuda::name(op, nullptr)
#elif defined(JACFAST_CUDA)
#define JACFAST_LIBRARY jacfast
#define JACFAST_RUN(name, op, tensor)                                       \
  if ((tensor).is_cuda()) {                                                 \
    const c10::cuda::CUDAGuard guard((tensor).device());                    \
    cuda::name(op, c10::cuda::getCurrentCUDAStream((tensor).get_device())); \
  } else                                                                    \
    cpu::name(op, cpu_threads())
#else
#define JACFAST_LIBRARY jacfast
#define JACFAST_RUN(name, op, tensor) cpu::name(op, cpu_threads())
#endif

// Register an op for the devices that were built.
#if defined(JACFAST_CUDA)
#define JACFAST_IMPL(name)                                                       \
  TORCH_LIBRARY_IMPL(JACFAST_LIBRARY, CPU, m) { m.impl(#name, &jacfast::name); } \
  TORCH_LIBRARY_IMPL(JACFAST_LIBRARY, CUDA, m) { m.impl(#name, &jacfast::name); }
#else
#define JACFAST_IMPL(name) \
  TORCH_LIBRARY_IMPL(JACFAST_LIBRARY, CPU, m) { m.impl(#name, &jacfast::name); }
#endif

}  // namespace jacfast
