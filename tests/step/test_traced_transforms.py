"""compiled="traced": models that differentiate with the transforms of torch.func."""

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, jacrev, vjp, vmap

from jacfast import Frobenius
from tests.step.networks import CLASSES, build
from tests.step.tracing import assert_as_plain, assert_traced, update

pytestmark = pytest.mark.usefixtures("never_eager")


class OfTransforms(nn.Module):
    """A network beside its own derivative in x, or after a step of its own weights."""

    def __init__(self, way: str) -> None:
        super().__init__()
        self.way = way
        self.net = nn.Sequential(nn.Linear(6, 7), nn.Tanh(), nn.Linear(7, CLASSES))

    def forward(self, x: Tensor) -> Tensor:
        if self.way == "vjp":  # called after its transform has ended
            z, pull = vjp(self.net, x)
            return z + pull(torch.ones_like(z))[0][:, :CLASSES]
        if self.way == "jacrev":
            return vmap(jacrev(lambda row: self.net(row).square().sum()))(x)[:, :CLASSES]
        if self.way == "grad":
            return grad(lambda rows: self.net(rows).square().sum())(x)[:, :CLASSES]
        weights = dict(self.net.named_parameters())

        def loss(weights: dict[str, Tensor]) -> Tensor:
            return functional_call(self.net, weights, torch.ones_like(x[:2])).square().sum()

        steps = grad(loss)(weights)
        return functional_call(self.net, {n: w - 0.1 * steps[n] for n, w in weights.items()}, x)


@pytest.mark.parametrize("penalty", [Frobenius(), Frobenius("exact")], ids=["one", "exact"])
@pytest.mark.parametrize("way", ["vjp", "jacrev", "grad", "a step"])
def test_transforms_in_the_model(way, penalty):
    model, x, y = build("net", 5, nets={"net": (lambda: OfTransforms(way), (6,))})
    for seed in range(2):
        assert_as_plain(model, x + seed, y, penalty, seed, compiled="traced")
        update(model)
    assert_traced(model, 1)
