"""An iteration of DeepFool's loop on a GPU: few launches, and no wait, counted on the CPU."""

import math

import pytest
import torch
from torch import Tensor, nn

from jacfast import deepfool
from jacfast.attacks import at_once, masked
from jacfast.attacks.search import rows_at_once
from jacfast.ops import lives
from jacfast.vjp import few
from tests.attacks.launches import Launches
from tests.attacks.loops import choose, part_of
from tests.nets import build


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
    "mask": {"mask": torch.ones(1, 28, 28)},
    "subspace": {"subspace": torch.eye(784)[:9]},
    "without a target": {
        "clip": (0.0, 1.0),
        "clip_steps": True,
        "max_norm": 0.5,
        "floor": 1e-4,
        "mask": torch.ones(1, 28, 28),
    },
    "with a target": {
        "target": CLASSES,
        "clip": (0.0, 1.0),
        "clip_steps": True,
        "max_norm": 0.5,
        "floor": 1e-4,
        "mask": torch.ones(1, 28, 28),
    },
}
EVERY_CASE = pytest.mark.parametrize("case", CASES)
EVERY_NORM = pytest.mark.parametrize("p", [1.25, 2.0, 3.0, math.inf])


def _iteration(monkeypatch, classes: int = 10, **options) -> Launches:
    """Count in an iteration of a warm loop; an op of ours launches what it does on a GPU."""
    model = _fully_connected(classes)
    part = part_of(model, torch.rand(64, 1, 28, 28), candidates=None, **options)
    part.iterate()
    with Launches().counting(monkeypatch) as launches:
        part.iterate()
    assert launches.launched["deepfool_step"] == 1
    if options["p"] == 2:
        launches.launched["deepfool_step"] += 1  # where rows are long
    return launches


@EVERY_CASE
@EVERY_NORM
@pytest.mark.parametrize("classes", [2, 10, 100])
@pytest.mark.usefixtures("as_on_gpu")
def test_an_iteration_launches_at_most_40_kernels(case, p, classes, monkeypatch):
    """Beside the model's own passes."""
    launches = _iteration(monkeypatch, classes, p=p, **CASES[case])
    assert sum(launches.launched.values()) <= 40, launches.launched


@EVERY_CASE
@EVERY_NORM
@pytest.mark.usefixtures("as_on_gpu")
def test_an_iteration_never_waits(case, p, monkeypatch):
    assert not _iteration(monkeypatch, p=p, **CASES[case]).waited


@pytest.mark.parametrize("look", ["number", "mask", "nonzero"])
def test_a_wait_would_be_seen(look, monkeypatch):
    def peek(tensor: Tensor):
        mask = tensor > 0
        return {"number": lambda: int(mask.sum()), "mask": lambda: tensor[mask]}.get(
            look, mask.nonzero
        )()

    with Launches().counting(monkeypatch) as launches:
        peek(torch.ones(3))
    assert sum(launches.waited.values()) == 1


@pytest.mark.usefixtures("as_on_gpu")
def test_a_look_every_few_iterations(monkeypatch):
    """The samples never get there, so that every iteration is made."""
    model, x = build("cnn", samples=6)
    choose(monkeypatch, masked=True)
    looks = []
    for steps in (3, 3 + 4 * masked.EVERY):
        target = torch.zeros(6, dtype=torch.int64)
        with Launches().counting(monkeypatch) as launches:
            result = deepfool(model, x, target=target, max_norm=1e-3, steps=steps)
        assert result.iterations.tolist() == [steps] * 6
        looks.append(launches.waited["_local_scalar_dense"])
    assert looks[1] - looks[0] == 4


def test_a_gpu_has_its_own_numbers_of_rows():
    """Which fill a batched pass, and are not too many for it."""
    x = torch.empty(64, 1, 28, 28, device="meta")
    count = rows_at_once(x)
    assert count > rows_at_once(x.new_empty(x.shape, device="cpu"))
    assert few(count, x)
    assert not few(count + 1, x)
