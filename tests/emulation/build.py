"""Compile the CUDA kernels for the emulator, and the ops over them.

The kernels become one shared library, in seconds: their files include no torch header. The ops
(checks, allocation, dispatch) are built once, as torch.ops.jacfast_emulated, and call the kernel
library that is loaded: the plain one, the sanitized one, or one with a planted fault.
"""

import contextlib
import ctypes
import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
HERE = ROOT / "tests" / "emulation"
BUILD = ROOT / "build" / "emulation"
LIBRARY = "libjacfast_kernels.so"
ASSERTIONS = "-D_GLIBCXX_ASSERTIONS"  # what the standard library leaves undefined ends the process
FLAGS = [
    "-std=c++20",
    "-g1",
    "-fPIC",
    "-fno-gnu-unique",
    "-Wall",
    "-Werror",
    "-Wno-unknown-pragmas",
]
SANITIZE = ["-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all", ASSERTIONS]
# What a library is built for: the emulator alone, the sanitizers, or the race detector, which is
# called by instrumented kernels in the place of libtsan.
PLAIN, SANITIZED, RACES = "plain", "sanitized", "races"
OPTIONS = {PLAIN: ["-O2"], SANITIZED: SANITIZE, RACES: ["-O1", "-DJACFAST_RACES"]}
INSTRUMENT = ["-fsanitize=thread", "--param=tsan-instrument-func-entry-exit=0"]


@cache
def cuda_headers() -> tuple[Path, ...]:
    """Return the folders of CUDA's own headers, from pip or from a toolkit; empty if none has all.

    The types come from them: vectors, half, bfloat16, the launch configuration.
    """
    folders = [Path(p, "nvidia", "cu13", "include") for p in sys.path if p.endswith("-packages")]
    folders += [Path(os.environ.get("CUDA_HOME", "/usr/local/cuda"), "include")]
    needed = ("cuda_runtime_api.h", "cuda_fp16.h", "cuda_bf16.h", "crt/host_defines.h")
    for folder in folders:
        if all((folder / name).exists() for name in needed):
            return folder, folder / "cccl"  # nv/target is in either
    return ()


def missing() -> str:
    """Say why the emulator cannot be built here; empty if it can."""
    if not shutil.which("g++"):
        return "the emulator needs g++"
    if not cuda_headers():
        return "the emulator needs CUDA's headers (pip: nvidia-cuda-{runtime,crt,cccl})"
    return ""


@contextlib.contextmanager
def turn(folder: Path) -> Iterator[None]:
    """Hold a folder of builds: processes and threads side by side share what the first one built.

    It is released with the process, however that ends.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "turn").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def kernels(csrc: Path = ROOT / "csrc", kind: str = PLAIN, build: Path = BUILD) -> Path:
    """Compile every kernel of `csrc` and the emulator to a shared library, unless that was done."""
    sources = [HERE / "emulator.cpp", *sorted([*HERE.glob("*.cu"), *csrc.glob("kernels/*.cu")])]
    sources += sorted(HERE.glob("races/*.cpp")) if kind == RACES else []
    flags = _flags(kind)
    read = [*HERE.rglob("*.h"), *csrc.rglob("*.h"), *csrc.rglob("*.cuh"), *sources]
    digest = hashlib.sha256(" ".join(flags + INSTRUMENT).encode())
    for file in sorted(read):
        digest.update(file.name.encode() + file.read_bytes())
    folder = build / kind / digest.hexdigest()[:16]
    library = folder / LIBRARY
    with turn(build):
        if library.exists():
            return library
        shutil.rmtree(folder.parent, ignore_errors=True)  # what was built from older files
        folder.mkdir(parents=True)
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            objects = list(pool.map(lambda source: _compiled(source, kind, folder), sources))
        return _linked(objects, kind, library)


def other_kernel(source: Path, kind: str, folder: Path) -> Path:
    """Link the tree's kernels to a library in `folder`, with one of them compiled from `source`.

    It comes first, so that what it shares with the others (inline functions) is as it has it.
    """
    tree = kernels(kind=kind).parent
    others = [o for o in tree.glob("*.o") if o.stem != source.stem]
    return _linked([_compiled(source, kind, folder), *others], kind, folder / LIBRARY)


def _flags(kind: str) -> list[str]:
    flags = [*FLAGS, *OPTIONS[kind]]
    flags += [f"-I{HERE / 'include'}", f"-I{HERE}"]
    return flags + [f"-isystem{folder}" for folder in cuda_headers()]


def _compiled(source: Path, kind: str, folder: Path) -> Path:
    target = folder / f"{source.stem}.o"
    flags = _flags(kind)
    if kind == RACES and source.suffix == ".cu":  # the emulator's own accesses are no kernel's
        flags += INSTRUMENT
    output("g++", *flags, "-x", "c++", "-c", str(source), "-o", str(target))
    return target


def _linked(objects: list[Path], kind: str, library: Path) -> Path:
    unfinished = library.with_name("unfinished.so")
    link = ["-shared", f"-Wl,-soname,{LIBRARY}", "-o", str(unfinished)]
    output("g++", *_flags(kind), *map(str, objects), *link)
    unfinished.rename(library)
    return library


def twins(sources: list[Path], sanitize: bool, folder: Path) -> Path:
    """Compile CPU twins to a library in `folder`.

    In a process that loads it first (LD_PRELOAD) its functions take the place of jacfast's own.
    Without clones for each instruction set they compile in a quarter of the time, and with the
    library's own float16 that is tested, too.
    """
    library = folder / "libjacfast_twins.so"
    flags = ["-std=c++20", "-fopenmp", "-fPIC", "-shared", "-Wall"]
    flags += SANITIZE if sanitize else ["-O1"]
    output("g++", *flags, *map(str, sources), "-o", str(library))
    return library


@cache
def load() -> ctypes.CDLL:
    """Load the emulated kernels and register torch.ops.jacfast_emulated; return the kernels.

    JACFAST_EMULATED names a library made by `kernels` to load instead of the plain one.
    """
    from torch.utils import cpp_extension

    library = Path(os.environ.get("JACFAST_EMULATED") or kernels())
    loaded = ctypes.CDLL(str(library))  # the ops find it by its soname
    folder = BUILD / "ops"
    with turn(folder):
        (folder / "lock").unlink(missing_ok=True)  # of a build that was killed: waited for, forever
        cpp_extension.load(
            name="jacfast_emulated",
            sources=[str(source) for source in sorted(ROOT.glob("csrc/ops/*.cpp"))],
            extra_cflags=["-O1", "-std=c++20", "-DJACFAST_EMULATED", ASSERTIONS],
            extra_ldflags=[str(library)],
            build_directory=str(folder),
            is_python_module=False,
        )
    return loaded


def output(*command: str) -> str:
    """Run a command and return what it printed; raises RuntimeError with its errors."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}\n{done.stderr}")
    return done.stdout
