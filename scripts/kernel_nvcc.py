"""CUDA kernels compiled without a GPU: what ptxas says of them, and their machine code."""

import re
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
FLAGS = ["-std=c++20", "-O3", "--expt-relaxed-constexpr", "-Werror", "all-warnings"]
PTXAS = ["-Xptxas", "-v,--warn-on-spills,--warn-on-local-memory-usage,-Werror"]
HALVES = {"__half": "half", "__nv_bfloat16": "bfloat16"}
KINDS = {"(jacfast::RowNormKind)0": "sumsq", "(jacfast::RowNormKind)1": "sumabs"}
KINDS["(jacfast::RowNormKind)2"] = "maxabs"
KINDS |= {"<false, ": "<first, ", "<true, ": "<second, "}  # of norm_first and norm_second
_STACK = r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads"


class Resources(NamedTuple):
    registers: int
    shared: int
    stack: int
    spills: int


class Compiled(NamedTuple):
    resources: dict[str, Resources]
    code: dict[str, str]  # what nvdisasm prints of each kernel


def compile_all(archs: list[str]) -> dict[str, Compiled]:
    """Compile every file of kernels for each architecture, as many at once as there are cores."""
    sources = sorted(ROOT.glob("csrc/kernels/*.cu"))
    jobs = [(source, arch) for source in sources for arch in archs]
    all_of: dict[str, Compiled] = {arch: Compiled({}, {}) for arch in archs}
    with ThreadPoolExecutor() as pool:
        for (_, arch), of_file in zip(
            jobs, pool.map(lambda job: compiled(*job), jobs), strict=True
        ):
            for whole, part in zip(all_of[arch], of_file, strict=True):
                whole.update(part)
    return all_of


def compiled(source: Path, arch: str) -> Compiled:
    """Compile one file for one architecture."""
    with tempfile.TemporaryDirectory() as folder:
        cubin = f"{folder}/kernel.cubin"
        log = run("nvcc", *FLAGS, *PTXAS, "-cubin", f"-arch={arch}", str(source), "-o", cubin)
        listing = run(disassembler(), "-c", cubin)
    resources = {}
    for entry in log.split("Compiling entry function ")[1:]:
        sizes = [int(n) for n in re.search(_STACK, entry).groups()]
        shared = re.search(r"(\d+) bytes smem", entry)
        resources[readable(entry.split("'")[1])] = Resources(
            registers=int(re.search(r"Used (\d+) registers", entry).group(1)),
            shared=int(shared.group(1)) if shared else 0,
            stack=sizes[0],
            spills=sizes[1] + sizes[2],
        )
    sections = re.split(r"\t\.section\t\.text\.(\S+?),.*\n", listing)
    return Compiled(
        resources, dict(zip(map(readable, sections[1::2]), sections[2::2], strict=True))
    )


def disassembler() -> str:
    """Return nvdisasm: on the PATH, beside nvcc, or Triton's in the environment of check-cuda."""
    found = shutil.which("nvdisasm")
    for pattern in ("env/bin/nvdisasm", "env/lib/python*/site-packages/**/bin/nvdisasm"):
        found = found or next(map(str, ROOT.glob(f"build/cuda/{pattern}")), None)
    return found or sys.exit(
        "kernel_resources: nvdisasm is not on the PATH; the CUDA toolkit has it, and PyPI "
        "(nvidia-cuda-nvdisasm), and so has build/cuda/env after `make check-cuda`"
    )


def readable(mangled: str) -> str:
    """Return 'row_norm_whole<sumsq, float>' for a mangled name."""
    name = run("c++filt", mangled).strip().removeprefix("void ").split("(jacfast::RowNorm)")[0]
    name = re.sub(r"\(jacfast::[\w:<>]+\)$", "", name).removeprefix("jacfast::cuda::")
    for old, new in {**HALVES, **KINDS}.items():
        name = name.replace(old, new)
    return name


def run(*command: str) -> str:
    """Run a command and return what it says; exit if it fails."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(command)}\n{done.stdout}{done.stderr}")
    return done.stdout + done.stderr
