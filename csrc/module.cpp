// The Python module jacfast._C tells what was built. The ops are a library beside it, jacfast._ops,
// which knows no Python: it registers torch.ops.jacfast.* when it is loaded.
#include <pybind11/pybind11.h>

// Nothing here is shared, so Python may run without its global lock.
PYBIND11_MODULE(_C, m, pybind11::mod_gil_not_used()) {
  m.doc() = "How the ops of jacfast were built";
  m.def("build", [] {
    pybind11::dict build;
    build["lives"] = JACFAST_LIVES;  // the devices that have compiled ops
    build["torch"] = JACFAST_TORCH;  // the torch that it was compiled against
    build["compiler"] = __VERSION__;
#ifdef _OPENMP
    build["threads"] = "OpenMP";
#else
    build["threads"] = "";  // the CPU ops use one
#endif
    build["cuda"] = JACFAST_CUDA_VERSION;  // of nvcc; empty in a CPU build
    build["architectures"] = JACFAST_ARCHITECTURES;
    return build;
  });
}
