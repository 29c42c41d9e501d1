"""Plant faults in every life of the ops, and in what calls them; see whether a test turns red.

python -m tests.emulation.mutate [WORD]     only the faults whose file or description contains WORD
python -m tests.emulation.mutate K/N        every N-th fault, another part for each K modulo N

A fault in C++ that the plain tests let pass is tried again under the sanitizers, a race of kernels
under the race detector alone: elsewhere chance decides. Exits with 1 if a fault survives, or can no
longer be planted.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.emulation import build
from tests.emulation.faults import Fault
from tests.emulation.faults.kernels import KERNELS
from tests.emulation.faults.kernels_of_layers import LAYER_KERNELS
from tests.emulation.faults.layers import LAYERS
from tests.emulation.faults.loops import LOOPS
from tests.emulation.faults.projections import PROJECTIONS
from tests.emulation.faults.races import RACES
from tests.emulation.faults.references import REFERENCES
from tests.emulation.faults.twins import TWINS
from tests.emulation.process import environment

FAULTS = [*KERNELS, *LAYER_KERNELS, *RACES, *TWINS, *LAYERS, *REFERENCES, *LOOPS, *PROJECTIONS]
ENDS = "the process ends with"
UNDER = {
    build.PLAIN: "",
    build.SANITIZED: ", under the sanitizers",
    build.RACES: ", under the race detector",
}
# The life that a file's faults show in, as pytest's -k says it.
LIVES = {"kernels": "emulated", "cpu": "cpu or registration", "ops": "reference", "attacks": ""}
LIVES["csrc"] = LIVES["cpu"]  # what the twins share
PYTHON = (LIVES["ops"], LIVES["attacks"])


def life_of(file: str) -> str:
    """Return the life whose source `file` is, by the folder it lies in."""
    return LIVES[Path(file).parent.name]


def kinds_of(fault: Fault) -> list[str]:
    """Return the builds in which a fault may show, in turn."""
    if fault in RACES:
        return [build.RACES]
    return [build.PLAIN] if life_of(fault.file) in PYTHON else [build.PLAIN, build.SANITIZED]


def killed_by(root: Path, fault: Fault, kind: str, only: Iterable[str] = ()) -> str:
    """Return the test that turns red over the sources in `root`, or an empty string.

    It is one of the tests of the fault's file and life, or of `only` these.
    """
    life, folder = life_of(fault.file), "ops" if fault not in LOOPS else "attacks"
    file = f"tests/{folder}/test_{fault.tests}.py"
    which = [f"{file}::{test}" for test in only] or ["-k", life, file]
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "--disable-plugin-autoload", "-q", "-x", "-rfE", *which],
        cwd=root if life in PYTHON else build.ROOT,  # where the ops are built already
        env={**os.environ, "OMP_NUM_THREADS": "1", **_variables(root, fault, kind)},
        capture_output=True,
        text=True,
        check=False,
    )
    if run.returncode == 0 and " passed" in run.stdout:
        return ""
    if run.returncode == 0 or run.returncode > 1:  # all were skipped, or pytest did not run them
        raise RuntimeError(f"{file} could not be run:\n{run.stdout[-2000:]}{run.stderr[-2000:]}")
    if kind == build.RACES and "emulation: a race in" not in run.stdout:
        return ""  # red for another reason
    failed = re.search(r"^(?:FAILED|ERROR) \S+?::(.*?)(?: - .*)?$", run.stdout, re.MULTILINE)
    return failed.group(1) if failed else f"{ENDS} {run.returncode}"


def _variables(root: Path, fault: Fault, kind: str) -> dict[str, str]:
    """Build what the fault's life needs of `root`; return what makes a process use it."""
    life, extra = life_of(fault.file), environment(kind)
    if life == LIVES["kernels"]:
        library = build.other_kernel(_kernel(root, fault), kind, root / "build")
        return {**extra, "JACFAST_EMULATED": str(library)}
    if life == LIVES["cpu"]:
        twins = build.twins(
            _twins(root / fault.file, root), kind == build.SANITIZED, root / "build"
        )
        return {**extra, "LD_PRELOAD": f"{extra.get('LD_PRELOAD', '')} {twins}".strip()}
    return {}


def _twins(file: Path, root: Path) -> list[Path]:
    """Return the sources of the twin that a fault is in, which begin with its name; or all."""
    known = sorted(root.glob("csrc/cpu/*.cpp"))
    if file.suffix != ".cpp":
        return known
    name = min((one.stem for one in known if file.stem.startswith(one.stem)), key=len)
    return [one for one in known if one.stem.startswith(name)]


def _kernel(root: Path, fault: Fault) -> Path:
    """Return the kernel that a fault is in; of a shared header, the one that the tests are of."""
    own = (root / fault.file).with_suffix(".cu")
    return own if own.exists() else own.with_stem(fault.tests.removesuffix("_rounding"))


def copy(folder: Path) -> Path:
    """Copy what the tests run over, with the tests; return its root."""
    root = folder / "jacfast"
    for part in ("csrc", "jacfast", "tests"):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(build.ROOT / part, root / part, ignore=ignored)
    shutil.copy(build.ROOT / "pyproject.toml", root)
    (root / "build").mkdir()
    return root


def plant(fault: Fault, root: Path) -> None:
    """Change one place of a copy; raises ValueError if that place is not there."""
    file = root / fault.file
    text = file.read_text()
    if fault.old not in text:
        raise ValueError(f"{fault.what}: {fault.file} has no {fault.old!r} any more")
    file.write_text(text.replace(fault.old, fault.new, 1))


def judged(fault: Fault) -> tuple[str, float]:
    """Plant a fault in a copy; return the test that turns red, if one does, and the seconds."""
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        root = copy(Path(folder))
        plant(fault, root)
        test = ""
        for kind in kinds_of(fault):
            if test := killed_by(root, fault, kind):
                test += UNDER[kind]
                break
    return test, time.perf_counter() - start


def check_without(killed: list[tuple[Fault, str]]) -> None:
    """Exit if one of the tests of a file that faults turned red is red without a fault."""
    rest = (UNDER[build.SANITIZED], UNDER[build.RACES])  # all of them run in test_*.py, without
    names = {test for _, test in killed if test and not test.endswith(rest)}
    whole = any(test.startswith(ENDS) for test in names)  # a process that ends names no test
    with tempfile.TemporaryDirectory() as folder:
        root, fault = copy(Path(folder)), killed[0][0]
        if names and (test := killed_by(root, fault, build.PLAIN, () if whole else sorted(names))):
            sys.exit(f"without a fault, {test} fails as well: that must pass first")


def chosen(which: str) -> list[Fault]:
    """Return the faults of a word, or of a part K/N."""
    if part := re.fullmatch(r"(\d+)/([1-9]\d*)", which):
        number, parts = map(int, part.groups())
        return FAULTS[number % parts :: parts]
    return [fault for fault in FAULTS if which in f"{fault.file} {fault.what}"]


def main(which: str = "") -> int:
    faults = chosen(which)
    survivors = 0
    red: dict[tuple[str, str], list[tuple[Fault, str]]] = defaultdict(list)
    with ThreadPoolExecutor(os.cpu_count()) as side_by_side:
        for fault, (test, seconds) in zip(faults, side_by_side.map(judged, faults), strict=True):
            survivors += not test
            red[life_of(fault.file), fault.tests].append((fault, test))
            verdict = test or "SURVIVES"
            print(f"{fault.file}: {fault.what}\n    {verdict} ({seconds:.0f} s)", flush=True)
        list(side_by_side.map(check_without, red.values()))
    print(f"{len(faults) - survivors} of {len(faults)} faults killed")
    return 1 if survivors or not faults else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:2]))
