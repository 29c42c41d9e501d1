"""Build the extension with torch's cpp_extension; metadata is in pyproject.toml.

JACFAST_BUILD=0   install pure Python: every op runs as its PyTorch reference
TORCH_CUDA_ARCH_LIST   the architectures to compile for (default 8.0;9.0+PTX), GPU present or not
"""

import glob
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile

from setuptools import Extension, setup

NO_TORCH = (
    "jacfast: building the extension needs torch in this environment: run\n"
    "    pip install torch setuptools ninja pybind11\n"
    "    pip install --no-build-isolation .\n"
)
# NaN and the order of sums are as written, whatever the user's flags; linked with -ffast-math, a
# library would round the smallest numbers of its process to zero.
PRECISE = ["-fno-fast-math"]
# Flags to compile and to link with: of g++ and clang++, and of Apple's clang (untested).
OPENMP = ((["-fopenmp"], ["-fopenmp"]), (["-Xpreprocessor", "-fopenmp"], ["-lomp"]))
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


def find_compiler():
    """Return the command of the C++ compiler, or ""; torch and setuptools then take the same."""
    named = os.environ.get("CXX", "").strip()
    for command in [named] if named else ["c++", "g++", "clang++"]:
        if shutil.which(shlex.split(command)[0]):
            os.environ["CXX"] = command
            return command
    return ""


def knows(cxx, feature, *flags):
    """Say whether csrc/probe/`feature`.cpp compiles and links: what counts is not the name."""
    users = (os.environ.get(name, "") for name in ("CPPFLAGS", "CFLAGS", "CXXFLAGS", "LDFLAGS"))
    with tempfile.TemporaryDirectory() as folder:
        command = [*shlex.split(cxx), *shlex.split(" ".join(users)), "-std=c++20"]  # wins, as later
        command += [f"csrc/probe/{feature}.cpp", "-o", os.path.join(folder, feature), *flags]
        return subprocess.run(command, capture_output=True).returncode == 0


def compiler_flags(cxx):
    """Return the flags to compile and to link C++ with, as far as `cxx` knows them."""
    compiling = ["-O3", "-std=c++20", "-Wall", *PRECISE]
    clones = "-DJACFAST_TARGET_CLONES"
    if knows(cxx, "target_clones", clones):  # for csrc/cpu
        compiling.append(clones)
    for to_compile, to_link in OPENMP:
        if knows(cxx, "openmp", *to_compile, *to_link):
            return compiling + to_compile, PRECISE + to_link
    print(f"jacfast: {cxx} has no OpenMP: the CPU ops will use one thread", file=sys.stderr)
    return compiling, PRECISE


def extensions():
    """Return the keyword arguments of setup() that build the extension, or {} for pure Python.

    jacfast._ops is the library of the ops: no Python in it, and of PyTorch the stable interface
    alone, so that one file serves many releases. jacfast._C tells what is in it.
    """
    if os.environ.get("JACFAST_BUILD", "1") == "0":
        return {}
    cxx = find_compiler()
    if not cxx or not knows(cxx, "cxx20"):
        lacks = f"{cxx} cannot build csrc/probe/cxx20.cpp" if cxx else "no C++ compiler found"
        print(f"jacfast: {lacks}: installing pure Python", file=sys.stderr)
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
    compiling, linking = compiler_flags(cxx)
    flags = {"cxx": compiling}
    sources = [*glob.glob("csrc/ops/*.cpp"), *glob.glob("csrc/cpu/*.cpp")]
    defines, includes, libraries = [], cpp_extension.include_paths(), ["torch_cpu"]
    if cuda:
        sources += glob.glob("csrc/kernels/*.cu")
        defines.append(("JACFAST_CUDA", None))
        flags["nvcc"] = ["-O3", "-std=c++20", "--expt-relaxed-constexpr"]
        # CUDA from pip keeps its headers here; a system toolkit may have the core ones only.
        roots = (os.path.dirname(path) for path in torch.__path__)
        includes += cpp_extension.include_paths("cuda")
        includes += [d for root in roots for d in glob.glob(f"{root}/nvidia/cu*/include")]
        libraries += ["cudart_static", "rt", "dl", "pthread"]  # no CUDA library need be there
    ops = Extension(
        "jacfast._ops",
        sorted(sources),
        include_dirs=includes,
        library_dirs=cpp_extension.library_paths("cuda" if cuda else "cpu"),
        libraries=libraries,
        define_macros=defines,
        extra_compile_args=flags,
        extra_link_args=linking,
        py_limited_api=True,
    )
    built = {
        "JACFAST_LIVES": "cpu cuda" if cuda else "cpu",
        "JACFAST_TORCH": torch.__version__,
        "JACFAST_CUDA_VERSION": torch.version.cuda if cuda else "",
        "JACFAST_ARCHITECTURES": ARCHITECTURES if cuda else "",
    }
    module = Extension(
        "jacfast._C",
        ["csrc/module.cpp"],
        include_dirs=[pybind11.get_include()],
        define_macros=[(name, f'"{value}"') for name, value in built.items()],
        extra_compile_args={"cxx": flags["cxx"]},
        extra_link_args=PRECISE,
    )
    return {
        "ext_modules": [ops, module],
        "cmdclass": {"build_ext": cpp_extension.BuildExtension},
    }


setup(**extensions())
