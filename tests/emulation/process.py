"""Python over kernels of another build: sanitized ones, or those of the race detector."""

import os
import subprocess
import sys

from tests.emulation import build


def environment(kind: str) -> dict[str, str]:
    """Return the variables of a process that loads kernels of that build.

    For the sanitizers libasan must come first into the process. Python and torch keep memory until
    the end.
    """
    if kind != build.SANITIZED:
        return {}
    libraries = ("libasan.so", "libubsan.so")
    paths = [build.output("g++", f"-print-file-name={name}").strip() for name in libraries]
    return {"LD_PRELOAD": " ".join(paths), "ASAN_OPTIONS": "detect_leaks=0"}


def python(kind: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run Python with these arguments, over the tree's kernels of that build."""
    own = {**environment(kind), "JACFAST_EMULATED": str(build.kernels(kind=kind))}
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=build.ROOT,
        env={**os.environ, **own},
        capture_output=True,
        text=True,
        check=False,
    )


def why_not() -> str:
    """Say why no such process can be started here; empty if it can."""
    from tests.testing import missing

    inside = "this is such a process" if os.environ.get("JACFAST_EMULATED") else ""
    return inside or missing("emulated")


def op_tests(kind: str, life: str, *folders: str) -> None:
    """Run what pytest's -k calls `life` of the tests in `folders`; raises with what is red.

    Each case in one of the block sizes: in all of them it is in the plain run.
    """
    command = ("-m", "pytest", "--disable-plugin-autoload", "-q", "--one-life", "-k", life)
    done = python(kind, *command, *folders)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    assert " passed" in done.stdout
