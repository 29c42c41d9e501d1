"""The emulated kernels a second time, under AddressSanitizer and UndefinedBehaviorSanitizer."""

import os
import subprocess
import sys

import pytest

from tests.emulation import build
from tests.emulation.sanitizers import environment
from tests.testing import missing


@pytest.fixture
def sanitized():
    """Run Python in a process with the sanitizers, over the sanitized kernels."""
    why = missing("emulated")
    if why:
        pytest.skip(why)
    if os.environ.get("JACFAST_EMULATED"):
        pytest.skip("this is the sanitized process")
    library = build.kernels(sanitize=True)
    variables = {**os.environ, **environment(), "JACFAST_EMULATED": str(library)}

    def run(*arguments: str) -> subprocess.CompletedProcess:
        return subprocess.run(
            [sys.executable, *arguments],
            cwd=build.ROOT,
            env=variables,
            capture_output=True,
            text=True,
            check=False,
        )

    return run


@pytest.mark.slow
@pytest.mark.parametrize("folder", ["ops", "emulation"])
def test_every_emulated_test(sanitized, folder):
    done = sanitized("-m", "pytest", "-q", "-k", "emula", f"tests/{folder}")
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    assert " passed" in done.stdout


@pytest.mark.parametrize(
    ("name", "message"),
    [("past static", "index 64 out of bounds"), ("past dynamic", "heap-buffer-overflow")],
)
def test_a_planted_overflow_is_found(sanitized, name, message):
    code = f"from tests.emulation.test_emulator import run; run({name!r})"
    done = sanitized("-c", code)
    assert done.returncode != 0
    assert message in done.stderr
    assert "planted.cu" in done.stderr
