"""Arguments that a function in a table does not take are PyTorch's own affair."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from jacfast import Frobenius, deepfool, forward_with_penalty, jacobian
from jacfast.calling import Twice
from jacfast.calling.attention import BY_MATH
from jacfast.calling.taken import taken
from jacfast.lean import ATTENTION, PULL, TRAINING, Lean, Sweep
from jacfast.lean.tables import ROWS, STOCK
from tests.nets import draw, relative_error

MODES = {
    "training": (lambda: Lean(Sweep(PULL), TRAINING, least=0), TRAINING.layers),
    "attention": (lambda: Lean(Sweep(PULL), ATTENTION, least=0), ATTENTION.layers),
    "rows": (lambda: Lean(Sweep(PULL), ROWS), ROWS.layers),
    "on a GPU": (lambda: Lean(Sweep(PULL), STOCK), STOCK.layers),
    "in a checkpoint": (Twice, BY_MATH),
}
CALLS = [(mode, function) for mode, (_, table) in MODES.items() for function in table]


def said(function, *args, **kwargs) -> tuple[type, str]:
    """Return what a call raises."""
    try:
        function(*args, **kwargs)
    except Exception as error:
        return type(error), str(error)
    pytest.fail("it took them")


@pytest.mark.parametrize("name", ["out", "of_another_version"])
@pytest.mark.parametrize(("mode", "function"), CALLS, ids=lambda v: getattr(v, "__name__", v))
def test_others_arrive_where_they_belong(mode, function, name):
    """As those do that PyTorch lets through to the mode: here to an error in its own words."""
    given, odd = [draw(2, 3, 4, 4).requires_grad_()], {name: object()}
    handler = MODES[mode][0]().__torch_function__
    assert said(handler, function, (), tuple(given), odd) == said(function, *given, **odd)


X, W = draw(4, 6), draw(6, 6, seed=2)
OUT = {  # what takes a tensor to write to
    "sigmoid": lambda **out: torch.sigmoid(X, **out),
    "expit": lambda **out: torch.special.expit(X, **out),
    "tanh": lambda **out: torch.tanh(X, **out),
    "by another name": lambda **out: torch.tanh(x=X, **out),
    "gelu": lambda **out: F.gelu(X, **out),
    "softplus": lambda **out: F.softplus(X, 2.0, **out),
    "logsigmoid": lambda **out: F.logsigmoid(X, **out),
    "linear": lambda **out: F.linear(X, W, **out),
}


@pytest.mark.parametrize("name", OUT)
def test_a_tensor_to_write_to(name):
    want, buffer = OUT[name](), torch.zeros(4, 6).double()
    with MODES["training"][0](), torch.no_grad():
        assert OUT[name](out=buffer) is buffer
        assert torch.equal(OUT[name](), want)
    assert torch.equal(buffer, want)


class Gated(nn.Module):
    """A layer times a gate that is a constant."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(6, 6), nn.Linear(6, 3)

    def forward(self, x):
        h, gate = torch.tanh(self.first(x)), torch.empty_like(x)
        with torch.no_grad():
            torch.sigmoid(x, out=gate)
            F.linear(gate.clone(), self.first.weight, out=gate)
        return self.last(h * gate)


def test_steps_attacks_and_rows():
    torch.manual_seed(0)
    model, x = Gated().double(), draw(4, 6)
    leaf = x.clone().requires_grad_()
    want = Frobenius("exact")(model(leaf), leaf)
    assert (
        relative_error(forward_with_penalty(model, x, penalty=Frobenius("exact"))[1], want) < 1e-9
    )
    assert relative_error(jacobian(model, x).square().sum() / 4, want) < 1e-9
    deepfool(model, x)


def test_errors_of_what_takes_them_are_its_own():
    def wrong(x, *, inplace=False):
        raise TypeError("of its own")

    with pytest.raises(TypeError, match="of its own"):
        taken(wrong, 1)
    assert taken(wrong, 1, out=2) is None
    assert taken(wrong) is None
