"""The emulated kernels a second time, under AddressSanitizer and UndefinedBehaviorSanitizer."""

import os
import subprocess
import sys

import pytest

from tests.emulation import build
from tests.testing import missing

# libasan must come first into the process. torch leaks by design.
PRELOAD = ("libasan.so", "libubsan.so")


@pytest.fixture
def sanitized():
    """Run Python in a process with the sanitizers, over the sanitized kernels."""
    why = missing("emulated")
    if why:
        pytest.skip(why)
    if os.environ.get("JACFAST_EMULATED"):
        pytest.skip("this is the sanitized process")
    paths = [build.output("g++", f"-print-file-name={name}").strip() for name in PRELOAD]
    environment = {
        "LD_PRELOAD": " ".join(paths),
        "ASAN_OPTIONS": "detect_leaks=0",
        "JACFAST_EMULATED": str(build.kernels(sanitize=True)),
    }

    def run(*arguments: str) -> subprocess.CompletedProcess:
        return subprocess.run(
            [sys.executable, *arguments],
            cwd=build.ROOT,
            env={**os.environ, **environment},
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
    [("past static", "global-buffer-overflow"), ("past dynamic", "heap-buffer-overflow")],
)
def test_a_planted_overflow_is_found(sanitized, name, message):
    code = f"from tests.emulation.test_emulator import run; run({name!r})"
    done = sanitized("-c", code)
    assert done.returncode != 0
    assert message in done.stderr
    assert "planted.cu" in done.stderr
