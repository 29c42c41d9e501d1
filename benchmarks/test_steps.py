"""The penalised step and its rivals in pytest-benchmark: `pytest benchmarks --benchmark-only`.

The contenders are those of `jacfast.bench`, but for what compiles for minutes. Each is held against
plain autograd in float64 before it is timed.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import pytest
import torch
from torch import nn

import jacfast
from benchmarks.networks import ViT
from benchmarks.step import floor
from jacfast import models
from jacfast.timing.contenders import Contender, contenders
from jacfast.timing.cost import steps
from jacfast.timing.memory import peak_bytes
from jacfast.timing.task import Task, prepare, shown
from jacfast.timing.verify import Oracle, error, gradient

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
EAGER = ("one-vector", "jacobian-reg", "one-line", "loop")
SHARE, LAM = 0.25, 0.1


class Case(NamedTuple):
    """A network, the shape of a sample, and how many there are."""

    make: Callable[[], nn.Module]
    shape: tuple[int, ...]
    samples: int


CASES = {
    "seck_c": Case(models.seck_c, (1, 28, 28), 64),
    "tf_tutorial_cnn": Case(models.tf_tutorial_cnn, (1, 28, 28), 64),
    "cifar_cnn": Case(models.cifar_cnn, (3, 32, 32), 16),
    "ViT": Case(lambda: ViT(depth=2), (3, 32, 32), 8),
}


def task_of(case: Case) -> Task:
    torch.manual_seed(0)
    model, x = case.make().eval().to(DEVICE), torch.rand(case.samples, *case.shape, device=DEVICE)
    return prepare(model, x, None, jacfast.Frobenius(), LAM, (), None, None)


def named(task: Task) -> dict[str, Contender]:
    """Return the contenders by penalty and name."""
    found = [one for one in contenders(task, EAGER, SHARE) if "inductor" not in one.name]
    return {f"{shown(one.penalty)}: {one.name}" if one.penalty else one.name: one for one in found}


SMALL = Case(lambda: nn.Linear(2, 3), (2,), 4)
NAMES = list(named(task_of(SMALL)))


@pytest.fixture(scope="module", params=CASES)
def subject(request):
    """A case's title, its task and the gradients that are right, by penalty."""
    case = CASES[request.param]
    task = task_of(case)
    right = functools.cache(Oracle(task, 0).gradient)
    return f"{request.param}, {case.samples} samples", task, right


@pytest.mark.parametrize("name", NAMES)
def test_step(name, subject, benchmark):
    title, task, right = subject
    one = named(task)[name]
    benchmark.group = f"{title}: {shown(one.penalty) if one.penalty else 'no penalty'}"
    if one.penalty:
        truth, allowed = right(one.penalty)
        found = error(gradient(task, one.run), truth)
        assert found <= allowed, f"its gradient is {found:.1e} off that of plain autograd"
        benchmark.extra_info["error"] = found
    run = functools.partial(steps, task, one.run)
    benchmark.extra_info |= {"samples": len(task.x), "peak_bytes": peak_bytes(run, task.x.device)}
    benchmark.extra_info["floor_plain_steps"] = floor(task.model, task.x) if one.penalty else 1.0
    benchmark.pedantic(synchronised(run), rounds=9, warmup_rounds=1)


def synchronised(run: Callable[[], None]) -> Callable[[], None]:
    """Return a call that ends when the device is done."""

    def called() -> None:
        run()
        if DEVICE.type == "cuda":
            torch.cuda.synchronize()

    return called
