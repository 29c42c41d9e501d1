"""An iteration of DeepFool's loop on a GPU: few launches, and no wait, counted on the CPU."""

import itertools
import math

import pytest
import torch
from torch import Tensor, nn

from jacfast import deepfool
from jacfast.attacks import at_once, masked
from jacfast.attacks.search import rows_at_once
from jacfast.batching import at_a_time, together
from jacfast.graph import Graph
from jacfast.ops import lives
from tests.attacks.launches import Launches
from tests.attacks.loops import choose, part_of


@pytest.fixture
def as_on_gpu(monkeypatch):
    """Leave out the look at the range of `origin`, which the op takes on a CPU alone."""
    if "cpu" not in lives.BUILT:
        pytest.skip("the ops are not built, and their references launch more")
    monkeypatch.setattr(at_once, "deepfool_step", torch.ops.jacfast.deepfool_step)


def _fully_connected(classes: int) -> nn.Module:
    torch.manual_seed(0)
    layers = [nn.Linear(784, 50), nn.ReLU(), nn.Linear(50, classes)]
    return nn.Sequential(nn.Flatten(), *layers)


CLASSES = torch.arange(64) % 2
CASES = {
    "default": {},
    "box": {"clip": (0.0, 1.0), "floor": 1e-4},
    "box of tensors": {"clip": (torch.zeros(1, 28, 28), torch.ones(1, 28, 28))},
    "half a box": {"clip": (0.0, math.inf)},
    "clipped steps": {"clip": (0.0, 1.0), "clip_steps": True},
    "cap": {"max_norm": 0.5},
    "cap in a box": {"clip": (0.0, 1.0), "max_norm": 0.5},
    "target": {"target": CLASSES},
    "target in a box": {"target": CLASSES, "clip": (0.0, 1.0)},
    "plain": {"linearize": "plain", "test": "plain"},
    "mixed points": {"linearize": "plain"},
    "mask": {"mask": torch.ones(1, 28, 28).bool()},
    "subspace": {"subspace": torch.eye(784).double()[:9]},
    "NaN in x": {"max_norm": 0.5},
}
# All at once, with a box of tensors; the floor is longer than what x resolves, in half a box not.
ALL = {
    "candidates": 7,
    "overshoot": 0.1,
    "floor": 1e-4,
    "clip": (torch.zeros(1, 28, 28), torch.ones(1, 28, 28)),
    "clip_steps": True,
    "max_norm": 0.5,
}
WITHIN = {name: CASES[name] for name in ("mask", "subspace")}
KINDS = {
    "all": ALL,
    "all, half a box": {**ALL, "clip": (0.0, math.inf), "floor": 1e-9},
    "all, plain": {**ALL, "linearize": "plain", "test": "plain"},
    "all, linearised plain": {**ALL, "linearize": "plain"},
    "all, tested plain": {**ALL, "test": "plain"},
}
for kind, targeted, within in itertools.product(KINDS, (False, True), WITHIN):
    name = f"{kind}, {within}" + ", target" * targeted
    CASES[name] = {**KINDS[kind], **WITHIN[within], **(CASES["target"] if targeted else {})}
# What may take more, and how many: on top of all the rest it is to be seen whether a step is too
# short (2) and leads to no finite point (1), without NaN of x (2). A whole box and a longer floor
# spare these.
MORE = {f"all, half a box, tested plain, {within}, target, NaN in x": 44 for within in WITHIN}
for case, within in zip(MORE, WITHIN, strict=True):
    CASES[case] = {**CASES[f"all, half a box, {within}, target"], "test": "plain"}
# any other norm than these takes the way of 1.25
NORMS = (1.25, 2.0, math.inf)
EVERY_CASE_AND_NORM = pytest.mark.parametrize(
    ("case", "p"),
    [(c, p) for c, p in itertools.product(CASES, NORMS) if p == 2 or "subspace" not in CASES[c]],
)


def _iteration(
    monkeypatch, case: str, p: float, classes: int = 10, which: str = "later"
) -> Launches:
    """Count in an iteration; an op of ours launches what it does on a GPU.

    It is the first of a batch or of a half, the first again after a result that is not fooled, or a
    later one.
    """
    x = torch.rand(64, 1, 28, 28)
    if case.endswith("NaN in x"):
        x[0, 0, 0, 0] = math.nan
    part = part_of(_fully_connected(classes), x, p=p, **{"candidates": None, **CASES[case]})
    if which != "first":
        part.step(*part.evaluate())
    if which == "half":
        part = part.rows(torch.arange(63, -1, -2))
    with Launches().counting(monkeypatch) as launches:
        part.step(*part.evaluate(fooled=False if which == "again" else None))
    assert launches.launched["deepfool_step"] == 1
    if p == 2:
        launches.launched["deepfool_step"] += 1  # where rows are long
    return launches


@EVERY_CASE_AND_NORM
@pytest.mark.parametrize("classes", [2, 10, 100])
@pytest.mark.usefixtures("as_on_gpu")
def test_an_iteration_launches_at_most_40_kernels_and_never_waits(case, p, classes, monkeypatch):
    """Beside the model's own passes."""
    launches = _iteration(monkeypatch, case, p, classes)
    assert sum(launches.launched.values()) <= MORE.get(case, 40), launches.launched
    assert not launches.waited


@EVERY_CASE_AND_NORM
@pytest.mark.parametrize("which", ["first", "half", "again"])
@pytest.mark.usefixtures("as_on_gpu")
def test_so_does_the_first_iteration(case, p, which, monkeypatch):
    launches = _iteration(monkeypatch, case, p, which=which)
    assert sum(launches.launched.values()) <= MORE.get(case, 40), launches.launched
    assert not launches.waited


LOOKS = {
    "number": lambda t: int(t.sum()),
    "bool": lambda t: bool(t[0]),
    "mask": lambda t: t[t > 0],
    "nonzero": torch.nonzero,
    "unique": torch.unique,
    "equal": lambda t: torch.equal(t, t + 1),
    "list": lambda t: t.tolist(),
    "array": lambda t: t.numpy(),
    "cpu": lambda t: t.cpu(),
    "to": lambda t: t.to("cpu"),
    "from the host": lambda t: t.new_tensor([1.0]),
    "to the device": lambda t: torch.tensor([1.0], device=t.device),
}


@pytest.mark.parametrize("look", LOOKS)
def test_a_wait_would_be_seen(look, monkeypatch):
    with Launches().counting(monkeypatch) as launches:
        LOOKS[look](torch.ones(3))
    assert sum(launches.waited.values()) == 1


def _never_fooled(x: Tensor) -> Tensor:
    """Class 0 everywhere; each step leads by one in the mean of x, and no boundary is there."""
    z = torch.exp(-x.flatten(1).mean(dim=1, keepdim=True))
    return torch.cat([z, -z, -2 * z], dim=1)


@EVERY_CASE_AND_NORM
@pytest.mark.usefixtures("as_on_gpu")
def test_a_look_every_few_iterations_and_no_other_wait(case, p, monkeypatch):
    """Every iteration is made, of all samples but those whose target is their class."""
    choose(monkeypatch, masked=True)
    waited = []
    for steps in (3, 3 + 4 * masked.EVERY):
        with Launches().counting(monkeypatch) as launches:
            result = deepfool(
                _never_fooled, torch.rand(64, 1, 28, 28), steps=steps, p=p, **CASES[case]
            )
        there = 32 if "target" in CASES[case] else 0
        assert sorted(result.iterations.tolist()) == [0] * there + [steps] * (64 - there)
        waited.append(launches.waited)
    assert waited[1] - waited[0] == {"_local_scalar_dense": 4}


def test_a_gpu_has_its_own_numbers_of_rows():
    """Which fill a batched pass, and are not too many for it."""
    x = torch.empty(64, 1, 28, 28, device="meta", requires_grad=True)
    count = rows_at_once(x)
    assert count > rows_at_once(x.new_empty(x.shape, device="cpu"))
    graph = Graph(x.flatten(1).tanh())
    assert [at_a_time(rows, x, graph) for rows in (1, count, count + 1)] == [1, count, 1]
    assert [together(rows, x, graph) for rows in (1, count, count + 1)] == [False, True, False]
