"""What is done to a new network, so that every part of it counts."""

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

BATCH_NORM = nn.modules.batchnorm._BatchNorm


class Wide(nn.Module):
    """A model in float64 throughout: also where it asks for float32 itself (`Tensor.float`).

    Else its logits have float32's roundings, beside which no error of 1e-8 can be seen.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model.double()

    def forward(self, x: Tensor) -> Any:
        """Return what the model returns."""
        with _NotNarrower():
            return self.model(x)


class _NotNarrower(TorchFunctionMode):
    met = False  # whether a model has asked for it

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func is Tensor.float and args[0].dtype == torch.float64:
            _NotNarrower.met = True
            return args[0]
        return func(*args, **(kwargs or {}))


def widened(model: nn.Module, x: Tensor) -> nn.Module:
    """Return a copy in float64 of a model that takes x: a `Wide` one where that is another."""
    wide = Wide(copy.deepcopy(model))
    with torch.no_grad():
        wide(x.double())
    return wide if _NotNarrower.met else wide.model


def channels_last(model: nn.Module) -> nn.Module:
    """Lay the weights of 2-d convolutions of a model out so; those of 3-d ones cannot be."""
    for p in model.parameters():
        if p.dim() == 4:
            p.data = p.data.contiguous(memory_format=torch.channels_last)
    return model


def training(model: nn.Module) -> nn.Module:
    """Put a model in training mode, but for what drops entries or layers."""
    model.train()
    for module in model.modules():
        if "drop" in type(module).__name__.lower() or type(module).__name__ == "StochasticDepth":
            module.training = False  # its own flag alone: it may hold layers
        if hasattr(module, "drop_rate"):  # of a call of F.dropout
            module.drop_rate = 0.0
    return model


def stirred(model: nn.Module, x: Tensor) -> nn.Module:
    """Make every part of a new network count: no zero weights, batch-norms that know their data."""
    generator = torch.Generator().manual_seed(1)
    for p in model.parameters():
        noise = torch.randn(p.shape, generator=generator)
        spread = p[0].numel() ** -0.5 if p.dim() > 1 else 1.0  # as layers are initialised
        p.data += 0.1 * spread * noise
    norms = [m for m in model.modules() if isinstance(m, BATCH_NORM)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 1.0
    with torch.no_grad():
        training(model)(x)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    return model
