"""pull_back: when it batches, by what is between x and the outputs."""

import pytest
import torch
from torch import Tensor, nn

import jacfast.vjp
from jacfast.batching import at_a_time
from jacfast.graph import Graph
from jacfast.vjp import pull_back
from tests.functions import Cube
from tests.nets import build, draw, relative_error
from tests.testing import batch_rows


def second_derivatives(model: nn.Module, leaf: Tensor, before: bool) -> list[Tensor]:
    """Pull three cotangents back to x through Cube, or to x behind it; differentiate again."""
    x = Cube.apply(leaf) if before else leaf
    outputs = model(x if before else Cube.apply(x))
    rows = pull_back(outputs, x, draw(3, *outputs.shape), create_graph=True)
    return list(torch.autograd.grad(rows.square().sum(), [leaf, *model.parameters()]))


@pytest.mark.parametrize(("before", "calls"), [(True, 1), (False, 3)])
def test_a_function_rules_batching_out_only_where_the_product_passes_it(before, calls, monkeypatch):
    model, x = build("smooth_mlp")
    model[-1] = nn.Linear(16, 5, bias=False).double()
    leaf = x.requires_grad_()
    made, grad = [], jacfast.vjp.grad
    monkeypatch.setattr(jacfast.vjp, "grad", lambda *a, **b: made.append(1) or grad(*a, **b))
    got = second_derivatives(model, leaf, before)
    assert len(made) == calls
    batch_rows(monkeypatch, together=False)
    for a, b in zip(got, second_derivatives(model, leaf, before), strict=True):
        assert relative_error(a, b) < 1e-12


def conv(head: int) -> nn.Module:
    """Return a net whose rows have 4 x 64 float64 entries a sample at most, so 2 KB."""
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1), nn.Tanh(), nn.Flatten(), nn.Linear(256, head), nn.Tanh()
    )


NETS = {
    # 8 KB a sample
    "wide": (lambda: nn.Sequential(nn.Linear(9, 1024), nn.Tanh(), nn.Linear(1024, 3)), (9,)),
    # 16 KB a sample; a weight of 16 MB, a sixth of which is 170 times as much
    "weight": (
        lambda: nn.Sequential(nn.Linear(1024, 2048), nn.Tanh(), nn.Linear(2048, 3)),
        (1024,),
    ),
    "no bias": (lambda: nn.Sequential(nn.Linear(1024, 2048, bias=False), nn.Tanh()), (1024,)),
    "conv": (lambda: conv(3), (2, 8, 8)),
    "conv, weight": (lambda: conv(2048), (2, 8, 8)),  # 16 KB a sample; 4 MB
    "long x": (lambda: nn.Sequential(nn.Linear(4096, 3), nn.Tanh()), (4096,)),  # 32 KB
}


@pytest.mark.parametrize(
    ("name", "samples", "create_graph", "calls"),
    [
        ("wide", 31, True, 1), ("wide", 32, True, 3), ("weight", 170, True, 1),
        ("weight", 171, True, 3), ("no bias", 170, True, 1), ("no bias", 171, True, 3),
        ("conv", 31, True, 1), ("conv", 32, True, 3), ("conv, weight", 42, True, 1),
        ("conv, weight", 43, True, 3), ("long x", 7, True, 1), ("long x", 8, True, 3),
        ("wide", 16, False, 2), ("wide", 17, False, 5), ("weight", 42, False, 2),
        ("weight", 43, False, 5), ("conv", 32, False, 2), ("conv", 33, False, 5),
        ("conv, weight", 5, False, 2), ("conv, weight", 6, False, 5), ("wide", 12, False, 1),
        ("wide", 13, False, 2), ("long x", 4, False, 2), ("long x", 5, False, 5),
    ],
)  # fmt: skip
def test_rows_go_back_together_while_one_is_small(name, samples, create_graph, calls, monkeypatch):
    """With a graph below 256 KB, of convolutions 64, or up to a sixth of a weight.

    Without one at least four at a time in 512 KB or a sixth of a weight, of convolutions in half.
    """
    make, shape = NETS[name]
    torch.manual_seed(0)
    model = make().double()
    x = draw(samples, *shape).requires_grad_()
    outputs = model(x)
    v = draw(3 if create_graph else 5, *outputs.shape)
    made, grad = [], jacfast.vjp.grad
    monkeypatch.setattr(jacfast.vjp, "grad", lambda *a, **b: made.append(1) or grad(*a, **b))
    rows = pull_back(outputs, x, v, create_graph)
    assert len(made) == calls
    for row, one in zip(rows, v, strict=True):
        expected = torch.autograd.grad(outputs, x, one, retain_graph=True)[0].flatten(1)
        assert relative_error(row.detach(), expected) < 1e-12


def test_all_rows_go_back_together_if_they_fit_however_few():
    """Of 160 KB each, of which 512 KB have three."""
    make, shape = NETS["wide"]
    x = draw(20, *shape).requires_grad_()
    graph = Graph(make().double()(x))
    assert [at_a_time(rows, x, graph) for rows in (1, 2, 3, 4)] == [1, 3, 3, 1]
