"""The emulated kernels a second time, under AddressSanitizer and UndefinedBehaviorSanitizer."""

import pytest

from tests.emulation.build import SANITIZED
from tests.emulation.process import op_tests, python, why_not

pytestmark = pytest.mark.skipif(bool(why_not()), reason=why_not())


# Every life in one process: each process takes seconds to import and to collect.
@pytest.mark.slow
def test_every_emulated_test():
    op_tests(SANITIZED, "emula", "tests/ops", "tests/emulation")


@pytest.mark.parametrize(
    ("name", "message"),
    [("past static", "index 64 out of bounds"), ("past dynamic", "heap-buffer-overflow")],
)
def test_a_planted_overflow_is_found(name, message):
    code = f"from tests.emulation.test_emulator import run; run({name!r})"
    done = python(SANITIZED, "-c", code)
    assert done.returncode != 0
    assert message in done.stderr
    assert "planted.cu" in done.stderr
