"""What a model writes to objects, in a second pass or a recording: as one call does."""

import argparse
import warnings
from array import array

import pytest
import torch
from torch import nn

from jacfast import forward_with_penalty
from tests.step.objects import Frozen, Mixed, Net, Private, Slotted
from tests.step.tracing import plans


@pytest.mark.parametrize("options", [{"at": True}, {"compiled": "traced"}], ids=str)
@pytest.mark.parametrize(
    ("make", "write"),
    [
        (Slotted, lambda held: setattr(held, "scale", held.scale + 1)),
        (Mixed, lambda held: setattr(held, "scale", held.scale + 1)),
        (Mixed, lambda held: setattr(held, "more", held.more + 1)),
        (Frozen, lambda held: object.__setattr__(held, "scale", held.scale + 1)),
        (Private, lambda held: held.set(held.get() + 1)),
        (Private, lambda held: setattr(held, "empty", getattr(held, "empty", 0) + 1)),
        (lambda: Slotted(inner=torch.zeros(2)), lambda held: held.inner.add_(1)),
        (lambda: array("d", [1.0]), lambda held: held.append(len(held))),
        (lambda: argparse.Namespace(n=0), lambda held: setattr(held, "n", held.n + 1)),
    ],
)
def test_a_step_writes_as_one_call_does(make, write, options):
    """A second pass, and a recording, leave objects as one call does."""
    x = torch.randn(4, 6).double()
    once, model = (Net(lambda m: (write(m.held), 1.0)[1]).double() for _ in range(2))
    once.held, model.held = make(), make()
    if "at" in options:
        options = {"at": x}
    for _ in range(2):
        once(x)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            forward_with_penalty(model, x, **options)
        assert shown(model.held) == shown(once.held)
    assert bool(plans(model)) == ("compiled" in options)
    assert all(plan is None for plan in plans(model))


def shown(held) -> str:
    names = ("scale", "more", "inner", "empty", "n")
    private = held.get() if isinstance(held, Private) else held if isinstance(held, array) else 0
    return repr([*(getattr(held, name, None) for name in names), private])


class Log(list):
    """A list of a class of one's own."""


@pytest.mark.parametrize("kind", [list, Log])
def test_a_list_that_the_model_writes_to_is_the_callers(kind):
    """Once for each call, the recorded one as well."""

    class Noting(nn.Linear):
        def forward(self, x, notes):
            notes.append(x.detach().sum())
            return super().forward(x)

    model, x = Noting(4, 3), torch.rand(5, 4)
    for compiled in (None, "traced", "traced"):
        notes = kind()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            forward_with_penalty(model, x, args=(notes,), compiled=compiled)
        assert [float(note) for note in notes] == [float(x.sum())]
