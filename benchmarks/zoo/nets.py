"""What is done to a new network, so that every part of it counts."""

import torch
from torch import Tensor, nn

BATCH_NORM = nn.modules.batchnorm._BatchNorm


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
