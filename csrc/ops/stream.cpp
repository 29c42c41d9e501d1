// PyTorch's current CUDA stream, from a library that only its CUDA builds have.
#include <dlfcn.h>

#include "common.h"

namespace jacfast {
namespace {

using GetStream = AOTITorchError (*)(int32_t device, void** stream);

GetStream find_get_stream() {
  // RTLD_NOLOAD: PyTorch has loaded it, or there is none.
  void* const library = dlopen("libtorch_cuda.so", RTLD_LAZY | RTLD_NOLOAD);
  void* const found = library ? dlsym(library, "aoti_torch_get_current_cuda_stream") : nullptr;
  return reinterpret_cast<GetStream>(found);
}

}  // namespace

Stream current_stream(const int32_t device) {
  static const GetStream get_stream = find_get_stream();
  void* stream = nullptr;
  if (get_stream == nullptr || get_stream(device, &stream) != TORCH_SUCCESS)
    throw std::runtime_error("jacfast: this PyTorch does not tell its current CUDA stream");
  return static_cast<Stream>(stream);
}

}  // namespace jacfast
