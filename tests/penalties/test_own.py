"""A penalty of one's own that breaks its contract is told so, in whatever way it is called."""

import dataclasses
import re

import pytest
import torch
import torch.nn.functional as F

import jacfast
from jacfast.timing.autograd import Autograd
from jacfast.timing.task import prepare
from tests.nets import mlp

X = torch.linspace(-1, 1, 48).view(8, 6)


@dataclasses.dataclass(frozen=True)
class TopLogit(jacfast.penalties.Penalty):
    """The gradient of the largest logit; `wrong` is done to its cotangents."""

    wrong: str = ""
    squared = True

    def cotangents(self, logits, x, y, draw):
        v = F.one_hot(logits.argmax(dim=1), logits.shape[1]).to(logits.dtype)
        return {
            "": v[None],
            "flat": v,
            "none": None,
            "empty": v[None][:0],
            "others": v[None, :, :-1],
            "one sample": v[None, :1],
        }[self.wrong]


@dataclasses.dataclass(frozen=True)
class Measured(TopLogit):
    """Its rho is `wrong` in the same way."""

    rho: str = ""

    def measure(self, g):
        rows = super().measure(g)
        return {"": rows, "sum": rows.sum(), "column": rows[:, None], "number": 1.0}[self.rho]


def one_line(penalty):
    x = X.clone().requires_grad_()
    return penalty(mlp()(x), x)


def compiled(penalty):
    x, model = X.clone().requires_grad_(), mlp()
    with torch._dynamo.config.patch(trace_autograd_ops=True):
        call = torch.compile(lambda x: penalty(model(x), x), backend="eager", fullgraph=True)
        return call(x)


def step(**options):
    def call(penalty):
        return jacfast.forward_with_penalty(mlp(), X, penalty=penalty, **options)[1]

    return call


def by_autograd(penalty):
    task = prepare(mlp(), X, None, penalty, 0.1, (), None, None)
    return Autograd(task, task.model, task.x).gradient(penalty)


WAYS = {
    "one line": one_line,
    "small step": step(),
    "part": step(chunk_size=3),
    "node": step(layer=""),
    "traced": step(compiled="traced"),
    "autograd": by_autograd,
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    ("wrong", "got"),
    [
        ("flat", "[8, 5]"),
        ("none", "NoneType"),
        ("empty", "[0, 8, 5]"),
        ("others", "[1, 8, 4]"),
        ("one sample", "[1, 1, 5]"),
    ],
)
def test_cotangents(way, wrong, got):
    samples = 3 if way == "part" else 8
    got = got.replace("8", str(samples))
    words = f"TopLogit.cotangents must return [n, N, K] = [n, {samples}, 5], n >= 1; got {got}"
    with pytest.raises(ValueError, match=re.escape(words)):
        WAYS[way](TopLogit(wrong=wrong))


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(("rho", "got"), [("sum", "[]"), ("column", "[8, 1]"), ("number", "float")])
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_sizes(way, rho, got, reduction):
    samples = 3 if way == "part" else 8
    got = got.replace("8", str(samples))
    words = f"Measured.measure must return [R] = [{samples}], a size for each row; got {got}"
    with pytest.raises(ValueError, match=re.escape(words)):
        WAYS[way](Measured(rho=rho, reduction=reduction))


@pytest.mark.parametrize("kind", [TopLogit, Measured])
def test_what_keeps_to_it_is_compiled_whole(kind):
    torch.manual_seed(0)
    want = one_line(kind())
    torch.manual_seed(0)
    torch.testing.assert_close(compiled(kind()), want)
