"""Walks of an autograd graph."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from jacfast.graph import Graph, coupling, leaf_of, nodes
from tests.nets import draw


def test_each_node_is_met_once():
    x, w = draw(3).requires_grad_(), draw(3, seed=2).requires_grad_()
    shared = x * w
    y = shared.exp() + shared.sin()
    found = list(nodes(y))
    assert sorted(node.name().split("::")[-1] for node in found) == [
        "AccumulateGrad",
        "AccumulateGrad",
        "AddBackward0",
        "ExpBackward0",
        "MulBackward0",
        "SinBackward0",
    ]
    assert len(set(found)) == len(found)


def test_nodes_of_several_outputs():
    x = draw(3).requires_grad_()
    first, second = x.exp(), x.sin()
    assert set(nodes(first, second)) == set(nodes(first)) | set(nodes(second))
    assert len(list(nodes(first, second, first))) == 3
    assert list(nodes(x, draw(3))) == []


def test_a_deep_graph():
    y = x = draw(1).requires_grad_()
    for _ in range(5000):
        y = y + 1
    assert len(list(nodes(y))) == 5001
    assert leaf_of(list(nodes(y))[-1]) is x


def test_past_a_node():
    x = draw(3).requires_grad_()
    h = x.exp()
    around, through = h.sin() + x.cos(), h.sin()
    assert {node.name() for node in nodes(through, past=h.grad_fn)} == {"SinBackward0"}
    assert [leaf_of(node) for node in nodes(around, past=h.grad_fn)].count(x) == 1
    assert h.grad_fn not in set(nodes(around, past=h.grad_fn))


def test_leaves():
    x, w, constant = draw(3).requires_grad_(), draw(3).requires_grad_(), draw(3)
    found = [leaf_of(node) for node in nodes((x * w).sum() * constant.sum())]
    assert {leaf for leaf in found if leaf is not None} == {x, w}
    assert found.count(None) == len(found) - 2


class Folded(nn.Module):
    """Batch statistics over samples that lie side by side in one."""

    def forward(self, x: Tensor) -> Tensor:
        side = x.movedim(0, 1).flatten(1)[None]  # [1, C, N H W]
        normed = F.batch_norm(side, None, None, training=True)[0]
        return normed.unflatten(1, (len(x), *x.shape[2:])).movedim(1, 0)


class Reshaped(nn.Module):
    """The same by one view, of [C, N, H W]."""

    def forward(self, x: Tensor) -> Tensor:
        side = x.transpose(0, 1).reshape(1, x.shape[1], -1)
        normed = F.batch_norm(side, None, None, training=True)
        return normed.view(x.shape[1], len(x), *x.shape[2:]).transpose(0, 1)


class Halves(nn.Module):
    """Instance-norm of the halves of each sample."""

    def forward(self, x: Tensor) -> Tensor:
        halves = x.flatten(2)[..., :24].unflatten(2, (2, 12)).movedim(2, 1).flatten(0, 1)
        return F.instance_norm(halves).view(len(x), -1)


class Standardised(nn.Module):
    """A weight of zero mean and unit variance for each channel, by batch-norm, as timm has it."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.rand(3, 3, 1, 1, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        flat = self.weight.reshape(1, 3, -1)
        return F.conv2d(x, F.batch_norm(flat, None, None, training=True).view_as(self.weight))


class Prototypes(Standardised):
    """Scores by learned directions that are normalised over one another."""

    def forward(self, x: Tensor) -> Tensor:
        directions = F.batch_norm(self.weight.flatten(1), None, None, training=True)
        return x.movedim(1, -1) @ directions.t()


class Weighed(nn.Module):
    """The gradient of an energy in an input of its own, weighed by what x says: g leads to x."""

    def __init__(self) -> None:
        super().__init__()
        self.z = nn.Parameter(torch.rand(4, 3, 5, 5, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        energy = F.batch_norm(self.z, None, None, training=True) * torch.tanh(x)
        return torch.autograd.grad(energy.sum(), self.z, create_graph=True)[0]


class Gated(nn.Module):
    """A gate by batch statistics, of the input itself: nothing but a product leads to x."""

    def forward(self, x: Tensor) -> Tensor:
        return x.detach() * F.batch_norm(x, None, None, training=True)


NORMS = {
    "weights by batch-norm": (Standardised(), 4, False),
    "prototypes by batch-norm": (Prototypes(), 4, False),
    "a gate by batch-norm": (Gated(), 4, True),
    "a gradient through batch-norm": (Weighed(), 4, True),
    "batch-norm": (nn.BatchNorm2d(3), 4, True),
    "batch-norm without running statistics": (
        nn.BatchNorm2d(3, track_running_stats=False).eval(),
        4,
        True,
    ),
    "batch-norm of one sample": (nn.BatchNorm2d(3), 1, False),
    "batch-norm of samples in one": (Folded(), 4, True),
    "batch-norm of samples in one, as many as channels": (Folded(), 3, True),
    "batch-norm of a view": (Reshaped(), 4, True),
    "batch-norm of a view, as many samples as channels": (Reshaped(), 3, True),
    "instance-norm of as many samples as channels": (nn.InstanceNorm2d(3, affine=True), 3, False),
    "instance-norm of halves": (Halves(), 4, False),
    "batch-norm in eval mode": (nn.BatchNorm2d(3).eval(), 4, False),
    "instance-norm": (nn.InstanceNorm2d(3), 4, False),
    "group-norm": (nn.GroupNorm(3, 3), 4, False),
    "layer-norm": (nn.LayerNorm(5), 4, False),
}


@pytest.mark.parametrize("name", NORMS)
def test_coupled_samples(name):
    """A sample's outputs depend on the others exactly where it is said so."""
    layer, samples, coupled = NORMS[name]
    model = nn.Sequential(nn.Conv2d(2, 3, 1), layer, nn.Tanh()).double()
    x = draw(samples, 2, 5, 5).requires_grad_()
    y = model(x)
    assert any(coupling(Graph(y, past=x.grad_fn), x)) == coupled
    assert not any(coupling(Graph(y, past=y.grad_fn), y))  # what lies before does not count
    (g,) = torch.autograd.grad(y[0].square().sum(), x)
    assert bool(g[1:].any()) == coupled
