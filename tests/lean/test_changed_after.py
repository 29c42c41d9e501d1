"""What a layer returns may be changed in place wherever PyTorch's own layer allows it."""

import contextlib
import copy

import pytest
import torch
from torch import nn

import jacfast
from tests.lean.sweeps import run, stock
from tests.nets import draw

LAYERS = {
    "AvgPool2d": nn.AvgPool2d(2),
    "BatchNorm2d": nn.BatchNorm2d(4).eval(),
    "CELU": nn.CELU(),
    "Conv1x1": nn.Conv2d(4, 3, 1),
    "Conv2d": nn.Conv2d(4, 3, 3),
    "ConvTranspose2d": nn.ConvTranspose2d(4, 3, 3),
    "ELU": nn.ELU(),
    "GELU": nn.GELU(),
    "GroupNorm": nn.GroupNorm(2, 4),
    "Hardswish": nn.Hardswish(),
    "Hardtanh": nn.Hardtanh(-0.5, 0.7),
    "InstanceNorm2d": nn.InstanceNorm2d(4, affine=True),
    "InstanceNorm2d, running": nn.InstanceNorm2d(4, track_running_stats=True),
    "LayerNorm": nn.LayerNorm([6, 6]),
    "LeakyReLU": nn.LeakyReLU(0.3),
    "LeakyReLU in place": nn.LeakyReLU(0.3, inplace=True),
    "LogSigmoid": nn.LogSigmoid(),
    "MaxPool2d": nn.MaxPool2d(2),
    "Mish": nn.Mish(),
    "ReLU": nn.ReLU(),
    "ReLU6": nn.ReLU6(),
    "RMSNorm": nn.RMSNorm(6),
    "SELU": nn.SELU(),
    "SiLU": nn.SiLU(),
    "Sigmoid": nn.Sigmoid(),
    "Softplus": nn.Softplus(),
    "Tanh": nn.Tanh(),
}
SAVES_ITS_OUTPUT = {"LeakyReLU in place", "ReLU", "SELU", "Sigmoid", "Tanh"}
CHANGES = {
    "relu": lambda y: torch.relu_(y),
    "add": lambda y: y.add_(y.detach().cos()),
    "mul": lambda y: y.mul_(1.5),
    "a part": lambda y: y[:, 1:].mul_(1.5).mean() + y,
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("name", LAYERS)
def test_a_change_in_place_behind_it(name, change):
    layer = copy.deepcopy(LAYERS[name]).double()

    def f(x):
        return CHANGES[change](layer(2 * x))

    x = draw(2, 4, 6, 6)
    want = None
    with contextlib.suppress(RuntimeError):  # modified by an inplace operation
        want = stock(f, x, list(layer.parameters()))
    if want is None:
        assert name in SAVES_ITS_OUTPUT
        return
    x = x.requires_grad_()
    lean, y = run(f, x)
    with lean.sweep.of("pull"):
        v = draw(*y.shape, dtype=y.dtype, seed=3)
        (g,) = torch.autograd.grad(y, x, v, create_graph=True)
    torch.testing.assert_close(y, want.y)
    torch.testing.assert_close(g, want.g)


def test_a_large_network_of_instance_norms():
    """As generators of images have it: convolution, instance-norm, ReLU in place."""
    torch.manual_seed(0)
    layers = nn.Conv2d(3, 8, 3, padding=1), nn.InstanceNorm2d(8, affine=True), nn.ReLU(inplace=True)
    head = nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(128, 3)
    model, x = nn.Sequential(*layers, *head).double(), draw(8, 3, 64, 64)
    inputs = x.clone().requires_grad_()
    logits = model(inputs)
    want = jacfast.frobenius_penalty(logits, inputs, "exact")
    (logits.square().mean() + want).backward()
    gradients = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    logits, penalty = jacfast.forward_with_penalty(model, x, penalty=jacfast.Frobenius("exact"))
    (logits.square().mean() + penalty).backward()
    torch.testing.assert_close(penalty, want)
    for p, gradient in zip(model.parameters(), gradients, strict=True):
        torch.testing.assert_close(p.grad, gradient)
