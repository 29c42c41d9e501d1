"""A network that becomes another one between two calls, without a new shape."""

import torch
import torch.nn.functional as F
from torch import nn
from torch.autograd.function import once_differentiable
from torch.utils.checkpoint import checkpoint


class Net(nn.Module):
    """A network that does what `kind` says, from the call on in which it says so."""

    def __init__(self) -> None:
        super().__init__()
        self.kind = ""
        self.first, self.norm = nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.last, self.elsewhere = (
            nn.Linear(64, 3),
            torch.ones(64, dtype=torch.float64, requires_grad=True),
        )

    def forward(self, x):
        x = F.gelu(self.norm(self.first(x)))
        if self.kind == "attention":
            x = x + F.scaled_dot_product_attention(x, x, x)
        if self.kind == "attention in a checkpoint":
            x = x + checkpoint(F.scaled_dot_product_attention, x, x, x, use_reentrant=False)
        if self.kind == "checkpoint":
            x = checkpoint(torch.tanh, x, use_reentrant=False)
        x = x.flatten(1)
        if self.kind == "coupled":
            x = F.batch_norm(x, None, None, training=True)
        if self.kind == "leaf":
            x = x * self.elsewhere
        if self.kind == "function":
            x = Cut.apply(x)
        if self.kind == "detached":
            x = x.detach() @ torch.ones(64, 64).double()
            return F.linear(x, self.last.weight.detach())
        if self.kind == "margin":
            classes = torch.zeros(len(x), dtype=torch.int64)
            return F.multi_margin_loss(self.last(x), classes, reduction="none")
        return self.last(x)


class Cut(torch.autograd.Function):
    """x^2, whose backward pass leaves no graph."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x * x

    @staticmethod
    @once_differentiable
    def backward(ctx, g):
        (x,) = ctx.saved_tensors
        return 2 * x * g
