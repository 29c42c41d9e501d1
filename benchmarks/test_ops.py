"""The ops and their rivals in pytest-benchmark: `pytest benchmarks --benchmark-only`."""

import pytest
import torch

from benchmarks.harness import take_turns
from benchmarks.ops import CLASSES, SIZE, Problem, contenders, verify

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
SAMPLES = {"cpu": (50, 500), "cuda": (500, 4096)}[DEVICE.type]
NAMES = list(contenders(Problem(torch.device("cpu"), 2)))


@pytest.fixture(scope="module", params=SAMPLES, ids=lambda n: f"[{n}, {CLASSES}, {SIZE}]")
def problem(request):
    """Arrays on which all ops agree with eager PyTorch; the bytes a second that a sum reads."""
    found = Problem(DEVICE, request.param)
    verify(found)
    seconds = take_turns({"sum": found.rows.sum}, 9, kernels=True)["sum"]["median"]
    return found, found.rows.nbytes / seconds


@pytest.mark.parametrize("name", NAMES)
def test_op(name, problem, benchmark):
    arrays, bandwidth = problem
    run, moved = contenders(arrays)[name]
    benchmark.group = f"{name.split(',')[0]}, rows {list(arrays.rows.shape)}"
    benchmark.extra_info |= {"bytes": moved, "floor_seconds": moved / bandwidth}
    benchmark(synchronised(run))
    if benchmark.stats:  # None with --benchmark-disable
        spent = benchmark.stats.stats.median
        benchmark.extra_info |= {
            "GB/s": moved / spent / 1e9,
            "share_of_sum": moved / spent / bandwidth,
        }


def synchronised(run):
    """Return a call that ends when the device is done."""
    if DEVICE.type == "cpu":
        return run

    def called() -> None:
        run()
        torch.cuda.synchronize()

    return called
