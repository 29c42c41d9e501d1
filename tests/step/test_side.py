"""A loss kept on the side is an error in the library's words, whatever layer it comes from.

Where the graph is autograd's own, as that of a small network, it has its gradient.
"""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

from jacfast import Frobenius, InputGradient, forward_with_penalty, penalised
from tests.step.steps import LAM

LAYERS = {
    "linear": lambda: nn.Linear(6, 6),
    "convolution": lambda: nn.Conv2d(3, 3, 3, padding=1),
    "eval batch-norm": lambda: nn.BatchNorm2d(3).eval(),
    "relu": lambda: nn.ReLU(),
    "relu in place": lambda: nn.Sequential(nn.Conv2d(3, 3, 1), nn.ReLU(inplace=True)),
    "max-pooling": lambda: nn.MaxPool2d(2, 1),
    "padded max-pooling": lambda: nn.MaxPool2d(3, 1, padding=1),
    "relu and max-pooling": lambda: nn.Sequential(nn.ReLU(), nn.MaxPool2d(2, 1)),
    "hard-sigmoid": lambda: nn.Hardsigmoid(),
    "sigmoid": lambda: nn.Sigmoid(),
    "layer norm": lambda: nn.LayerNorm(6),
    "average pooling": lambda: nn.AvgPool2d(2, 1),
    "transposed": lambda: nn.ConvTranspose2d(3, 3, 3),
    "recurrent": lambda: Rows(nn.GRU(6, 6, batch_first=True)),
    "checkpointed": lambda: Checkpointed(nn.Conv2d(3, 3, 3)),
}


class Rows(nn.Module):
    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x):
        return self.layer(x.flatten(1, 2))[0].unsqueeze(1)


class Checkpointed(Rows):
    def forward(self, x):
        return checkpoint(self.layer, x, use_reentrant=False)


class Aside(nn.Module):
    """A layer between two others, and a loss of its output."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.before = nn.Conv2d(3, 3, 1)
        self.layer = layer
        self.head = nn.LazyLinear(5)

    def forward(self, x):
        h = self.layer(self.before(x))
        self.loss = h.square().mean()
        return self.head(h.flatten(1))


def gradients(name, when, penalty, way) -> list[torch.Tensor]:
    """Return those of a step and of the loss on the side, one before the other or both at once."""
    torch.manual_seed(0)
    model = Aside(LAYERS[name]())
    x, y = torch.randn(4, 3, 6, 6), torch.arange(4)
    model(x)
    if way == "plain":
        leaf = x.requires_grad_()
        logits = model(leaf)
        value = penalty(logits, leaf, y)
    elif way == "node":
        logits, value = forward_with_penalty(model, x, y, penalty=penalty)
    else:
        with penalised(model, y, penalty=penalty) as held:
            logits = model(x)
        value = held.penalty
    loss = F.cross_entropy(logits, y) + LAM * value
    losses = {
        "before": [model.loss, loss],
        "together": [loss + model.loss],
        "after": [loss, model.loss],
    }[when]
    for one in losses:
        one.backward(retain_graph=one is not losses[-1])
    return [p.grad for p in model.parameters()]


WAYS = pytest.mark.parametrize("way", ["node", "penalised"])
BOTH = pytest.mark.parametrize("penalty", [Frobenius("exact"), InputGradient()])


@WAYS
@BOTH
@pytest.mark.parametrize("when", ["together", "after"])
@pytest.mark.parametrize(
    ("name", "size"), [*((name, "large") for name in LAYERS), ("checkpointed", "small")]
)
def test_it_is_refused_in_words(name, when, penalty, way, size):
    with pytest.raises(RuntimeError, match=r"beside its logits \(an auxiliary loss\?\)"):
        gradients(name, when, penalty, way)


@WAYS
@BOTH
@pytest.mark.parametrize("when", ["together", "after"])
@pytest.mark.parametrize("size", ["small"])
@pytest.mark.parametrize("name", [name for name in LAYERS if name != "checkpointed"])
def test_of_a_small_network_it_has_its_gradient(name, when, penalty, way, size):
    found = (gradients(name, when, penalty, each) for each in (way, "plain"))
    for ours, plain in zip(*found, strict=True):
        torch.testing.assert_close(ours, plain)


def test_the_gradient_in_x_is_not_lost_either():
    """Of a model without any lean layer, whose parameters could take the side loss's gradient."""

    class Smooth(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(6))

        def forward(self, x):
            h = (x * self.weight).tanh()
            self.loss = h.square().mean()
            return h

    model, x = Smooth(), torch.randn(4, 6, requires_grad=True)
    logits, value = forward_with_penalty(model, x, penalty=Frobenius("exact"))
    with pytest.raises(RuntimeError, match="beside its logits"):
        (model.loss + logits.sum() + value).backward()
    logits, value = forward_with_penalty(model, x, penalty=Frobenius("exact"))
    with pytest.raises(RuntimeError, match="beside its logits"):
        model.loss.backward()


@BOTH
@pytest.mark.parametrize("name", LAYERS)
def test_before_the_backward_pass_it_adds_its_gradient(name, penalty, size):
    """The graphs are there until then."""
    found = (gradients(name, "before", penalty, way) for way in ("node", "plain"))
    for ours, plain in zip(*found, strict=True):
        torch.testing.assert_close(ours, plain)
