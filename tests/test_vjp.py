"""pull_back: when it batches, by what is between x and the outputs."""

import pytest
import torch
from torch import Tensor, nn

import jacfast.batching
import jacfast.vjp
from jacfast.vjp import pull_back
from tests.functions import Cube
from tests.nets import build, draw, relative_error


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
    monkeypatch.setattr(jacfast.batching, "BATCH_UP_TO", 0)
    for a, b in zip(got, second_derivatives(model, leaf, before), strict=True):
        assert relative_error(a, b) < 1e-12


@pytest.mark.parametrize(
    ("samples", "create_graph", "calls"),
    [(8, True, 1), (9, True, 3), (9, False, 1), (32, False, 1), (33, False, 3)],
)
def test_a_convolution_with_a_graph_is_batched_for_few_samples(
    samples, create_graph, calls, monkeypatch
):
    """Of which a batched backward pass makes a loop over the rows anyway."""
    model, _ = build("cnn")
    x, v = draw(samples, 2, 8, 8).requires_grad_(), draw(3, samples, 5)
    made, grad = [], jacfast.vjp.grad
    monkeypatch.setattr(jacfast.vjp, "grad", lambda *a, **b: made.append(1) or grad(*a, **b))
    rows = pull_back(model(x), x, v, create_graph)
    assert len(made) == calls
    (jacobian,) = torch.autograd.functional.jacobian(lambda x: model(x).sum(0), (x,))
    expected = torch.einsum("rnk,kn...->rn...", v, jacobian).flatten(2)
    assert relative_error(rows.detach(), expected) < 1e-12
