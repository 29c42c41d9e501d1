"""What the tests of `jacfast.bench` share: short runs, and where they are interrupted."""

import torch

import jacfast
from jacfast.timing import measure

EAGER = ("one-vector", "jacobian-reg", "one-line", "loop")
ONE_LINE, LOOP = "penalty(logits, x) in the loss", "loop over the classes"


def bench(model, penalty=None, x=None, **options):
    """Run `jacfast.bench` against what needs no compiler, with as few turns as there can be."""
    x, penalty = torch.rand(8, 6) if x is None else x, penalty or jacfast.Frobenius()
    options = {"against": EAGER, "seconds": 0.0} | options
    return jacfast.bench(model, x, penalty=penalty, **options)


def shorten(monkeypatch):
    """Few and short turns, and no compiler: what is timed does not matter."""

    def lacks(*_, **__):
        raise RuntimeError("No working C++ compiler found")

    monkeypatch.setattr(measure, "TURN", 0.0)
    monkeypatch.setattr(measure, "ROUNDS", (2, 2))
    monkeypatch.setattr("torch._inductor.compile", lacks)


def interrupt_turn(monkeypatch, number):
    """Raise KeyboardInterrupt in the place of this turn."""
    turn, count = measure.Turns.turn, []

    def interrupted(self, name):
        count.append(name)
        if len(count) == number:
            raise KeyboardInterrupt
        turn(self, name)

    monkeypatch.setattr(measure.Turns, "turn", interrupted)


def row(result, name):
    """Return the one row of that name."""
    (found,) = (row for row in result.rows if row.name == name)
    return found
