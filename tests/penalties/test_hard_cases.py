"""Penalties of networks that have diverged, are flat, or very steep."""

import pytest
import torch
from torch import Tensor, nn

from jacfast import DecisionFunction, Frobenius, Spectral
from tests.nets import draw, relative_error
from tests.penalties.formulas import labelled, seeded


@pytest.mark.parametrize(
    "penalty", [Frobenius("exact", root=True), DecisionFunction("l2")], ids=["root", "l2"]
)
def test_the_root_of_nan_is_nan(penalty):
    """As it is without a root: a model that has diverged must not have a penalty of 0."""
    model, x, y, _ = labelled("mlp")
    model[0].weight.data[0, 0] = float("nan")
    assert bool(penalty(model(x), x, y).isnan())


def test_spectral_with_x_outside_the_graph():
    model, x, _, _ = labelled("mlp")
    with pytest.raises(ValueError, match="x must be part of the graph of the outputs"):
        Spectral()(model(x), x.detach().clone().requires_grad_())


def test_spectral_of_a_model_without_a_derivative():
    """As the other penalties: a backward pass that returns zeros is a zero Jacobian."""
    x, weight = draw(3, 6).requires_grad_(), draw(6, 5).requires_grad_()
    assert Frobenius()(x.round() @ weight, x) == 0
    assert Spectral()(x.round() @ weight, x) == 0


class SyncBatchNorm(torch.autograd.Function):
    """What stands in the graph for nn.SyncBatchNorm in several processes: not a native node."""

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        return x - x.mean(dim=0)

    @staticmethod
    def backward(ctx, g: Tensor) -> Tensor:
        return g - g.mean(dim=0)


def test_sync_batch_norm_of_several_processes_is_refused():
    model, x, _, _ = labelled("mlp")
    with pytest.raises(RuntimeError, match="the model has batch-norm in training mode"):
        Frobenius()(model(SyncBatchNorm.apply(x)), x)


@pytest.mark.parametrize(
    ("dtype", "scale"),
    [(torch.float16, 1000), (torch.float16, 1e-4), (torch.float32, 1e10), (torch.float32, 1e-13)],
)
def test_spectral_of_a_large_or_small_jacobian(dtype, scale):
    """||J||^2 itself need not overflow for J J^T u, or the squares of its norm, to do so."""
    torch.manual_seed(0)
    layer = nn.Linear(6, 5, bias=False).to(torch.float64)
    layer.weight.data.mul_(scale)
    layer.to(dtype)
    x = draw(3, 6, dtype=dtype).requires_grad_()
    got = Spectral(100)(layer(x), x, generator=seeded()).double() / scale**2
    want = torch.linalg.matrix_norm(layer.weight.double() / scale, 2) ** 2
    assert relative_error(got, want) < 1e-2
