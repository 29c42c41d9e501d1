"""What has no second derivative in PyTorch says so in words, and how to do without it."""

import re

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._higher_order_ops.scan import scan
from torch._higher_order_ops.while_loop import while_loop

from jacfast import Frobenius, jacobian
from tests.step.steps import fast, gradient, plain

OFFSETS = torch.tensor([0, 3, 6, 9])


def strided(h: Tensor) -> Tensor:
    return torch.nested.as_nested_tensor(list(h))


def jagged(h: Tensor) -> Tensor:
    return torch.nested.nested_tensor_from_jagged(h.reshape(-1, 2), OFFSETS)


def listed(h: Tensor) -> Tensor:
    return torch.nested.as_nested_tensor(list(h), layout=torch.jagged)


class Within(nn.Module):
    """A network with a function of [N, 3, 2] inside."""

    def __init__(self, function) -> None:
        super().__init__()
        self.first, self.function, self.last = nn.Linear(4, 6), function, nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.function(self.first(x).tanh().view(-1, 3, 2)).reshape(-1, 6))


def padded(function, nested):
    return lambda h: function(nested(h)).to_padded_tensor(0.0)


LATER = {
    "sin, jagged": lambda h: jagged(h).sin().values(),
    "softmax, strided": padded(lambda n: n.softmax(-1), strided),
    "gamma": lambda h: torch.distributions.Gamma(h.exp(), 1.0).rsample(),
    "cdist": lambda h: torch.cdist(h, h.new_ones(2, 2), p=1),
    "pdist": lambda h: torch.stack([F.pdist(one) for one in h]).repeat(1, 2),
}
AT_ONCE = {  # when the gradient in x is made, with a graph
    "silu, strided": padded(F.silu, strided),
    "to padded, jagged": padded(torch.sin, listed),
}
WAYS = {"strided": "to_padded_tensor", "jagged": "to_padded_tensor", "cdist": "mm_for_euclid"}


def lacking(name: str):
    way = next((re.escape(WAYS[key]) for key in WAYS if key in name), "")
    words = f"the penalty needs second derivatives of every operation, and PyTorch has none.*{way}"
    return pytest.raises(RuntimeError, match=words)


@pytest.mark.parametrize("step", [plain, fast])
@pytest.mark.parametrize("name", LATER)
def test_a_missing_second_derivative_is_one_when_it_is_asked_for(name, step):
    torch.manual_seed(0)
    model, x, y = Within(LATER[name]), torch.randn(3, 4), torch.arange(3)
    for _ in range(2):  # the second call knows the graph of the first
        logits, value = step(model, x, y, Frobenius())
        assert value.isfinite()
        with lacking(name):
            (logits.sum() + value).backward()


@pytest.mark.parametrize("step", [plain, fast])
@pytest.mark.parametrize("name", AT_ONCE)
def test_a_missing_second_derivative_is_one_as_soon_as_pytorch_comes_to_it(name, step):
    model, x, y = Within(AT_ONCE[name]), torch.randn(3, 4), torch.arange(3)
    assert jacobian(model, x).isfinite().all()
    with lacking(name) as raised:
        step(model, x, y, Frobenius())
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("step", [plain, fast])
def test_nested_tensors_that_have_one(step):
    model = Within(padded(lambda n: n * n, strided)).double()
    twin = Within(lambda h: h * h).double()
    twin.load_state_dict(model.state_dict())
    x, y = torch.randn(3, 4, dtype=torch.float64), torch.arange(3)
    values = [gradient(step(m, x, y, Frobenius("exact"))[1], m) for m in (model, twin)]
    torch.testing.assert_close(*values)


def looped(h: Tensor) -> Tensor:
    start = (torch.tensor(0), h)
    return while_loop(lambda i, t: i < 3, lambda i, t: (i + 1, t.sin()), start)[1]


def scanned(h: Tensor) -> Tensor:
    return scan(lambda c, t: (c + t, c * t), torch.zeros(len(h), 2), h, dim=1)[1]


@pytest.mark.slow
@pytest.mark.parametrize("step", [plain, fast])
@pytest.mark.parametrize("function", [looped, scanned])
def test_loops_of_pytorchs_lose_their_part_of_it(function, step):
    """Their gradient keeps the incoming one's graph, and takes their own steps for constants."""
    model, x, y = Within(function), torch.randn(3, 4), torch.arange(3)
    assert jacobian(model, x).isfinite().all()
    with pytest.raises(RuntimeError, match="the penalty's gradient would lose its part"):
        step(model, x, y, Frobenius())
