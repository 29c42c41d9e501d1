// What every op needs on the host: checks in words, memory, the element type, threads, the stream.
//
// All of it is PyTorch's stable interface as it was in release 2.11, so that one binary serves that
// and every later one, with and without CUDA.
#pragma once

#define TORCH_TARGET_VERSION (((0ULL + 2) << 56) | ((0ULL + 11) << 48))

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <ostream>
#include <sstream>
#include <stdexcept>
#include <string>
#include <tuple>
#include <utility>

#ifdef _OPENMP
#include <omp.h>
#endif

#include "../dtype.h"
#include "../kernels/stream.h"
#include "../split.h"

namespace jacfast {

using torch::headeronly::ScalarType;
using torch::stable::Device;
using torch::stable::Tensor;
using Sizes = torch::headeronly::IntHeaderOnlyArrayRef;

inline std::ostream& operator<<(std::ostream& out, const Sizes sizes) {
  out << '[';
  for (size_t i = 0; i < sizes.size(); ++i) out << (i > 0 ? ", " : "") << sizes[i];
  return out << ']';
}
inline std::ostream& operator<<(std::ostream& out, const Device device) {
  if (device.is_cpu()) return out << "cpu";
  if (device.is_cuda()) return out << "cuda:" << device.index();
  return out << "another kind of device";
}

// The public functions in Python check their arguments in words; these checks are for whoever calls
// torch.ops.jacfast directly, and keep the kernels inside their arrays. A ValueError in Python;
// PyTorch 2.15 makes it a RuntimeError, with the same words.
template <typename... Parts>
void check(const bool holds, const Parts&... parts) {
  if (holds) return;
  std::ostringstream words;
  (words << ... << parts);
  throw std::invalid_argument(words.str());
}
inline void check_shape(const Tensor& tensor, const char* name, const Sizes shape) {
  const Sizes sizes = tensor.sizes();  // of 2.11, which has no == for them
  check(std::equal(sizes.begin(), sizes.end(), shape.begin(), shape.end()), name,
        " must have shape ", shape, "; got ", sizes);
}
inline void check_dim(const Tensor& tensor, const char* name, const int64_t dim) {
  check(tensor.dim() == dim, name, " must have ", dim, " dimensions; got shape ", tensor.sizes());
}
inline void check_type(const Tensor& tensor, const char* name, const ScalarType type) {
  check(tensor.scalar_type() == type, name, " must have dtype ", type, "; got ",
        tensor.scalar_type());
}
inline void check_device(const Tensor& tensor, const char* name, const Tensor& other) {
  check(tensor.device() == other.device(), name, " must be on ", other.device(), "; got ",
        tensor.device());
}
inline void check_like(const Tensor& tensor, const char* name, const Tensor& other) {
  check_type(tensor, name, other.scalar_type());
  check_device(tensor, name, other);
}
inline void check_index(const Tensor& tensor, const char* name, const Tensor& other) {
  check_type(tensor, name, ScalarType::Long);
  check_shape(tensor, name, {other.size(0)});
  check_device(tensor, name, other);
}
inline void check_contiguous(const Tensor& tensor, const char* name) {
  check(tensor.is_contiguous(), name, " must be contiguous; got strides ", tensor.strides());
}

inline Dtype dtype_of(const Tensor& tensor, const char* name) {
  switch (tensor.scalar_type()) {
    case ScalarType::Float: return Dtype::f32;
    case ScalarType::Double: return Dtype::f64;
    case ScalarType::Half: return Dtype::f16;
    case ScalarType::BFloat16: return Dtype::bf16;
    default: break;
  }
  check(false, name, " must be float32, float64, float16 or bfloat16; got ", tensor.scalar_type());
  return {};
}

// Call `allocate`. The stable interface turns errors into a code; what fails here is memory, and
// the words for that are those by which programs know it: PyTorch's.
template <typename F>
Tensor allocated(const Tensor& like, const F& allocate) try {
  return allocate();
} catch (const std::runtime_error&) {
  throw std::runtime_error(like.is_cuda() ? "CUDA out of memory. jacfast could not allocate memory"
                                          : "jacfast: can't allocate memory");
}

// A new tensor on the device of `like`.
inline Tensor empty(const Tensor& like, const Sizes sizes, const ScalarType type) {
  return allocated(like, [&] { return torch::stable::new_empty(like, sizes, type); });
}
inline Tensor empty(const Tensor& like, const Sizes sizes) {
  return empty(like, sizes, like.scalar_type());
}
inline Tensor made_contiguous(const Tensor& tensor) {
  return allocated(tensor, [&] { return torch::stable::contiguous(tensor); });
}

// The tensor itself if the entries of its last dimension are contiguous, else a contiguous copy.
inline Tensor with_contiguous_rows(const Tensor& tensor) {
  const int64_t last = tensor.dim() - 1;
  const bool fine = tensor.size(last) <= 1 || tensor.stride(last) == 1;
  return fine ? tensor : made_contiguous(tensor);
}

// The type of results of accumulation: float32 for half types.
inline ScalarType accumulated(const Tensor& tensor) {
  return tensor.scalar_type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
}

// PyTorch's number of threads; one where it runs in parallel already.
inline int cpu_threads() {
#ifdef _OPENMP
  if (omp_in_parallel()) return 1;
#endif
  return static_cast<int>(torch::stable::get_num_threads());
}

// PyTorch's current stream on the GPU `device`.
Stream current_stream(int32_t device);

// Run an op's twin for the device of `tensor`, on its current stream. The tests build the ops once
// more, under another name, over the emulated CUDA kernels.
#if defined(JACFAST_EMULATED)
#define JACFAST_LIBRARY jacfast_emulated
#define JACFAST_RUN(name, op, tensor) cuda::name(op, nullptr)
#elif defined(JACFAST_CUDA)
#define JACFAST_LIBRARY jacfast
#define JACFAST_RUN(name, op, tensor)                            \
  if ((tensor).is_cuda()) {                                      \
    const int32_t device = (tensor).get_device_index();          \
    const torch::stable::accelerator::DeviceGuard guard(device); \
    cuda::name(op, current_stream(device));                      \
  } else                                                         \
    cpu::name(op, cpu_threads())
#else
#define JACFAST_LIBRARY jacfast
#define JACFAST_RUN(name, op, tensor) cpu::name(op, cpu_threads())
#endif

// Register an op for the devices that were built.
#define JACFAST_IMPL_ON(name, device)                     \
  STABLE_TORCH_LIBRARY_IMPL(JACFAST_LIBRARY, device, m) { \
    m.impl(#name, TORCH_BOX(&jacfast::name));             \
  }
#if defined(JACFAST_CUDA)
#define JACFAST_IMPL(name) JACFAST_IMPL_ON(name, CPU) JACFAST_IMPL_ON(name, CUDA)
#else
#define JACFAST_IMPL(name) JACFAST_IMPL_ON(name, CPU)
#endif

}  // namespace jacfast
