"""Build the extension jacfast._C with torch's cpp_extension; metadata is in pyproject.toml.

JACFAST_BUILD=0   install pure Python: every op runs as its PyTorch reference
TORCH_CUDA_ARCH_LIST   the architectures to compile for (default 8.0;9.0+PTX), GPU present or not
"""

import glob
import os
import re
import shutil
import subprocess
import sys

from setuptools import setup

NO_TORCH = (
    "jacfast: building the extension needs torch in this environment: run\n"
    "    pip install torch setuptools ninja pybind11\n"
    "    pip install --no-build-isolation .\n"
)
ARCHITECTURES = os.environ.setdefault("TORCH_CUDA_ARCH_LIST", "8.0;9.0+PTX")


def find_toolkit():
    """Set CUDA_HOME from nvcc itself: what is on the PATH may be a wrapper in another folder."""
    nvcc = shutil.which("nvcc")
    if not nvcc or "CUDA_HOME" in os.environ:
        return
    plan = subprocess.run(
        [nvcc, "--dryrun", "-E", "-x", "cu", os.devnull], capture_output=True, text=True
    )
    top = re.search(r"^#\$ TOP=(.+)$", plan.stderr, re.MULTILINE)
    if top:
        os.environ["CUDA_HOME"] = os.path.realpath(top.group(1))


def extension():
    """Return the keyword arguments of setup() that build jacfast._C, or {} for pure Python."""
    if os.environ.get("JACFAST_BUILD", "1") == "0":
        return {}
    if not any(shutil.which(cxx) for cxx in (os.environ.get("CXX") or "c++", "g++", "clang++")):
        print("jacfast: no C++ compiler found: installing pure Python", file=sys.stderr)
        return {}
    find_toolkit()
    try:
        import pybind11
        import torch
        from torch.utils import cpp_extension
    except ImportError:
        sys.exit(NO_TORCH)

    toolkit = cpp_extension.CUDA_HOME
    nvcc = toolkit and os.path.exists(os.path.join(toolkit, "bin", "nvcc"))
    cuda = bool(torch.version.cuda and nvcc)
    sources = ["csrc/module.cpp", *glob.glob("csrc/ops/*.cpp"), *glob.glob("csrc/cpu/*.cpp")]
    macros = {
        "JACFAST_TORCH": torch.__version__,
        "JACFAST_CUDA_VERSION": torch.version.cuda if cuda else "",
        "JACFAST_ARCHITECTURES": ARCHITECTURES if cuda else "",
    }
    defines = [(name, f'"{value}"') for name, value in macros.items()]
    flags = {"cxx": ["-O3", "-std=c++20", "-fopenmp", "-Wall"]}
    includes = [pybind11.get_include()]
    if cuda:
        sources += glob.glob("csrc/kernels/*.cu")
        defines.append(("JACFAST_CUDA", None))
        flags["nvcc"] = ["-O3", "-std=c++20", "--expt-relaxed-constexpr"]
        # CUDA from pip keeps its headers here; a system toolkit may have the core ones only.
        roots = (os.path.dirname(path) for path in torch.__path__)
        includes += [d for root in roots for d in glob.glob(f"{root}/nvidia/cu*/include")]
    make = cpp_extension.CUDAExtension if cuda else cpp_extension.CppExtension
    module = make(
        "jacfast._C",
        sorted(sources),
        include_dirs=includes,
        define_macros=defines,
        extra_compile_args=flags,
        extra_link_args=["-fopenmp"],
    )
    return {
        "ext_modules": [module],
        "cmdclass": {"build_ext": cpp_extension.BuildExtension},
    }


setup(**extension())
