"""The emulated kernels a second time, under AddressSanitizer and UndefinedBehaviorSanitizer."""

import pytest

from tests.emulation.build import SANITIZED
from tests.emulation.process import op_tests, python, why_not
from tests.testing import EACH_EMULATED

pytestmark = pytest.mark.skipif(bool(why_not()), reason=why_not())


# A process for each life, side by side; the emulator's own tests go with the life that is in order.
@pytest.mark.slow
@pytest.mark.parametrize("life", EACH_EMULATED)
def test_every_emulated_test(life):
    op_tests(SANITIZED, life, "tests/ops", "tests/emulation")


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
