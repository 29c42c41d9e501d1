// The Python module jacfast._C: importing it registers torch.ops.jacfast.*; it tells what was
// built.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <string>
#include <vector>

PYBIND11_MODULE(_C, m) {
  m.doc() = "The compiled ops of jacfast, registered as torch.ops.jacfast.*";
  m.def("lives", [] {
    std::vector<std::string> lives = {"cpu"};
#ifdef JACFAST_CUDA
    lives.emplace_back("cuda");
#endif
    return lives;
  });
  m.def("build", [] {
    pybind11::dict build;
    build["torch"] = JACFAST_TORCH;  // the torch that it was compiled against
    build["compiler"] = __VERSION__;
    build["cuda"] = JACFAST_CUDA_VERSION;  // of nvcc; empty in a CPU build
    build["architectures"] = JACFAST_ARCHITECTURES;
    return build;
  });
}
