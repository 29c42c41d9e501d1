"""Nodes whose saved tensors are out of sight: nothing is freed that the backward pass needs."""

import pytest
import torch
from torch import Tensor, nn

from jacfast import Frobenius
from jacfast.graph import Graph, nodes, saves
from tests.nets import draw
from tests.step.steps import assert_same, fast, plain, step

pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit")


class Gated(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.g, self.d = nn.Parameter(torch.ones(1)), nn.Parameter(torch.full((1,), 2.0))

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(x * self.g) * torch.sigmoid(x * self.d) + self.d * torch.sigmoid(x)


class Sliced(nn.Module):
    """A slice that is scaled in place: a node within a node."""

    def __init__(self) -> None:
        super().__init__()
        self.g = nn.Parameter(torch.full((1,), 2.0))

    def forward(self, x: Tensor) -> Tensor:
        h = x.clone()
        h[:, :, :4].mul_(self.g)
        return h * h


FIRST = {"TorchScript": lambda: torch.jit.script(Gated()), "a slice in place": Sliced}
UNREADABLE = {"TorchScript": "DifferentiableGraphBackward", "a slice in place": "CopySlices"}


@pytest.mark.parametrize("name", FIRST)
def test_a_step(name):
    """From its third call on TorchScript runs what it has compiled, as one node."""
    torch.manual_seed(0)
    first, layers = FIRST[name](), [nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3)]
    model = nn.Sequential(first, *layers).double()
    x, y = draw(6, 1, 8, 8), torch.arange(6) % 3
    for _ in range(4):
        got = step(fast, model, x, y, Frobenius(1))
        assert_same(got, step(plain, model, x, y, Frobenius(1)))
    graph = Graph(model(x.clone().requires_grad_()))
    assert any(UNREADABLE[name] in kind for kind in graph.named)


def test_what_saves():
    """By the nodes that PyTorch gives: those of plain sums and views, which save nothing, too."""
    x, w = draw(4, 4).requires_grad_(), draw(4, 4, seed=2).requires_grad_()
    scripted = torch.jit.script(Gated()).double()
    for _ in range(3):
        compiled = scripted(x)
    sliced = x.clone()
    sliced[0].mul_(2)
    linear = torch.cat([(x + w).T.reshape(2, 8), x.view(2, 8) - 1]).sum()
    found = {node.name().split("::")[-1]: saves(node) for node in nodes(linear)}
    assert len(found) > 6
    assert not any(found.values())
    saving = (x * w, x.exp(), x @ w, torch.relu(x), compiled, sliced)
    for one in saving:
        assert saves(one.grad_fn), one.grad_fn.name()
