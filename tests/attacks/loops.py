"""DeepFool's two loops, each on any device: the CPU's, and the one that is a GPU's."""

import functools
import importlib

import pytest
from torch import Tensor, nn

from jacfast import deepfool
from jacfast.attacks.loop import Loop
from jacfast.attacks.part import Part

MODULE = importlib.import_module("jacfast.attacks.deepfool")


def choose(monkeypatch, masked: bool) -> None:
    """Let `deepfool` take the loop of a GPU, or that of a CPU, whatever the device."""
    monkeypatch.setattr(MODULE, "Loop", functools.partial(Loop, masked=masked))


class _Made(Exception):
    """The loop is there, and need not run."""


def part_of(model: nn.Module, x: Tensor, **options) -> Part:
    """Return the samples of x, all of them running, as `deepfool` gives them to a GPU's loop."""
    loops: list[Loop] = []

    def make(*given) -> None:
        loops.append(Loop(*given, masked=True))
        raise _Made

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(MODULE, "Loop", make)
        with pytest.raises(_Made):
            deepfool(model, x, **options)
    part = loops[0].all
    part.running.fill_(True)
    return part
