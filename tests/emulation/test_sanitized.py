"""The emulated kernels a second time, under AddressSanitizer and UndefinedBehaviorSanitizer."""

import os
import subprocess
import sys

import pytest

from tests.emulation import build
from tests.emulation.sanitizers import environment
from tests.testing import EMULATED, missing


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


# A process for each life, side by side; the emulator's own tests go with the life that is in order.
@pytest.mark.slow
@pytest.mark.parametrize("life", ["emula and not shuffled", *(n for n in EMULATED if "shuf" in n)])
def test_every_emulated_test(sanitized, life):
    command = ("-m", "pytest", "--disable-plugin-autoload", "-q", "-k", life)
    done = sanitized(*command, "tests/ops", "tests/emulation")
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
