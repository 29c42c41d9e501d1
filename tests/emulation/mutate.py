"""Plant faults in the CUDA kernels, one at a time, and see whether an op test turns red.

python -m tests.emulation.mutate [WORD]     only the faults whose description contains WORD

A fault that the plain emulator's tests let pass is tried again under the sanitizers. Exits with 1
if a fault survives both, or can no longer be planted.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from tests.emulation import build
from tests.emulation.sanitizers import environment


class Fault(NamedTuple):
    what: str
    file: str  # in csrc/kernels
    old: str
    new: str
    tests: str  # in tests/ops


FAULTS = [
    Fault(
        "reduction: no barrier between writing and reading the slots",
        "device.cuh",
        "slots[threadIdx.x / 32] = value;\n  __syncthreads();",
        "slots[threadIdx.x / 32] = value;",
        "row_norm",
    ),
    Fault(
        "reduction: no barrier before the slots are used again",
        "device.cuh",
        "  __syncthreads();  // the slots of the call before may still be being read\n",
        "",
        "orthonormal_cotangents",
    ),
    Fault(
        "reduction: half of each warp is left out",
        "device.cuh",
        "int lanes = 16;",
        "int lanes = 8;",
        "row_norm",
    ),
    Fault(
        "packs: wrong stride",
        "device.cuh",
        "stride = int64_t{blockDim.x} * VEC;",
        "stride = int64_t{blockDim.x};",
        "row_norm",
    ),
    Fault(
        "packs: one too many is read ahead",
        "device.cuh",
        "d + (UNROLL - 1) * stride < whole",
        "d + (UNROLL - 2) * stride < whole",
        "row_norm",
    ),
    Fault(
        "packs: the last entry is left out",
        "device.cuh",
        "last = whole + threadIdx.x; last < end;",
        "last = whole + threadIdx.x; last < end - 1;",
        "row_norm",
    ),
    Fault(
        "packs: rows are taken for aligned",
        "device.cuh",
        "begin + (VEC - past) % VEC",
        "begin + 0 * past",
        "row_norm",
    ),
    Fault(
        "packs: an unaligned row is written in whole packs",
        "device.cuh",
        "(to) % 16 == 0",
        "(to) % sizeof(T) == 0",
        "deepfool_candidate",
    ),
    Fault(
        "parts: every thread adds all of them",
        "device.cuh",
        "p = threadIdx.x; p < parts;",
        "p = 0; p < parts;",
        "row_norm",
    ),
    Fault(
        "launch: no block for the last teams",
        "launch.cuh",
        "(items + block.y - 1) / block.y",
        "items / block.y",
        "row_norm",
    ),
    Fault(
        "row_norm: teams past the last row go on",
        "row_norm.cuh",
        "  const int64_t row = item();\n  if (row >= op.rows) return;",
        "  const int64_t row = item();",
        "row_norm",
    ),
    Fault(
        "row_norm: part and row exchanged",
        "row_norm.cuh",
        "item() % op.parts",
        "item() / op.parts",
        "row_norm",
    ),
    Fault(
        "row_norm: of equal maxima the last one",
        "row_norm.cuh",
        "a.where < b.where",
        "a.where > b.where",
        "row_norm",
    ),
    Fault(
        "row_norm: of a thread's equal maxima the last one",
        "row_norm.cuh",
        "value <= highest",
        "value < highest",
        "row_norm",
    ),
    Fault(
        "deepfool_step: of equal distances the highest class",
        "deepfool_step.cuh",
        "a.winner < b.winner",
        "a.winner > b.winner",
        "deepfool_step",
    ),
    Fault(
        "deepfool_step: no barrier between the sums and the choice",
        "deepfool_step.cuh",
        "  team_sync();  // thread 0 wrote the sums that all now read\n",
        "",
        "deepfool_step",
    ),
    Fault(
        "deepfool_step: the last class of a sweep is not written",
        "deepfool_step.cuh",
        "if (first + s <= last)",
        "if (first + s < last)",
        "deepfool_step",
    ),
    Fault(
        "deepfool_step: infinite norms are usable",
        "deepfool.cuh",
        " && isfinite(norm)",
        "",
        "deepfool_step",
    ),
    Fault(
        "deepfool_candidate: no barrier between comparing and changing",
        "deepfool_candidate.cuh",
        "  team_sync();  // everyone has compared",
        "  //",
        "deepfool_candidate",
    ),
    Fault(
        "deepfool_candidate: of equal distances the later class",
        "deepfool_candidate.cuh",
        "op.label[i] < op.winner[i]",
        "op.label[i] > op.winner[i]",
        "deepfool_candidate",
    ),
    Fault(
        "deepfool_candidate: every thread of the team decides",
        "deepfool_candidate.cuh",
        "  if (threadIdx.x > 0) return;\n  op.closer",
        "  op.closer",
        "deepfool_candidate",
    ),
    Fault(
        "orthonormal_cotangents: teams of a block share their rows",
        "orthonormal_cotangents.cuh",
        "+ threadIdx.y * entries",
        "+ 0 * entries",
        "orthonormal_cotangents",
    ),
    Fault(
        "max_pool: of equal entries the last one",
        "max_pool.cuh",
        "wide(entry) > wide(chosen)",
        "wide(entry) >= wide(chosen)",
        "max_pool",
    ),
    Fault(
        "max_pool: NaN is passed over",
        "max_pool.cuh",
        " && !isnan(wide(entry))",
        "",
        "max_pool",
    ),
    Fault(
        "max_pool_scatter: the first of the windows that overlap is left out",
        "max_pool.cuh",
        "above / pool.stride_height + 1",
        "above / pool.stride_height + 2",
        "max_pool_gradients",
    ),
    Fault(
        "max_pool_gather: dead windows take an entry",
        "max_pool.cuh",
        "place < pool.kernel_height * width",
        "place <= DEAD",
        "max_pool_gradients",
    ),
]


def killed_by(csrc: Path, tests: str, sanitize: bool) -> str:
    """Return the test that turns red over the kernels of `csrc`, or an empty string."""
    library = build.kernels(csrc, sanitize, csrc.parent / "build")
    extra = environment() if sanitize else {}
    file = f"tests/ops/test_{tests}.py"
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-x", "-rfE", "-k", "emulated", file],
        cwd=build.ROOT,
        env={**os.environ, **extra, "JACFAST_EMULATED": str(library)},
        capture_output=True,
        text=True,
        check=False,
    )
    if run.returncode == 0:
        return ""
    if run.returncode > 1:  # pytest ran nothing, or was interrupted: that is no verdict
        raise RuntimeError(f"{file} could not be run:\n{run.stdout[-2000:]}{run.stderr[-2000:]}")
    failed = re.search(r"^(?:FAILED|ERROR) \S+?::(.*?)(?: - .*)?$", run.stdout, re.MULTILINE)
    return failed.group(1) if failed else f"the process ends with {run.returncode}"


def plant(fault: Fault, folder: Path) -> Path:
    """Copy csrc and change one place of it; raises ValueError if that place is not there once."""
    csrc = folder / "csrc"
    shutil.copytree(build.ROOT / "csrc", csrc)
    file = csrc / "kernels" / fault.file
    text = file.read_text()
    if fault.old not in text:
        raise ValueError(f"{fault.what}: {fault.file} has no {fault.old!r} any more")
    file.write_text(text.replace(fault.old, fault.new, 1))
    return csrc


def main(word: str = "") -> int:
    faults = [fault for fault in FAULTS if word in fault.what]
    survivors = 0
    with tempfile.TemporaryDirectory() as folder:
        csrc = shutil.copytree(build.ROOT / "csrc", Path(folder) / "csrc")
        for tests in sorted({fault.tests for fault in faults}):
            if test := killed_by(csrc, tests, sanitize=False):
                sys.exit(f"without a fault, {test} fails: that must pass first")
    for fault in faults:
        start = time.perf_counter()
        with tempfile.TemporaryDirectory() as folder:
            csrc = plant(fault, Path(folder))
            test = killed_by(csrc, fault.tests, sanitize=False)
            if not test:
                test = killed_by(csrc, fault.tests, sanitize=True)
                test = test and f"{test}, under the sanitizers"
        survivors += not test
        seconds = time.perf_counter() - start
        print(f"{fault.what}\n    {test or 'SURVIVES'} ({seconds:.0f} s)", flush=True)
    print(f"{len(faults) - survivors} of {len(faults)} faults killed")
    return 1 if survivors or not faults else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:2]))
