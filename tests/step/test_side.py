"""A loss kept on the side is an error in the library's words, whatever layer it comes from."""

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


@pytest.mark.parametrize("way", ["node", "penalised"])
@pytest.mark.parametrize("penalty", [Frobenius("exact"), InputGradient()])
@pytest.mark.parametrize("when", ["together", "after"])
@pytest.mark.parametrize("name", LAYERS)
def test_it_is_refused_in_words(name, when, penalty, way, size):
    torch.manual_seed(0)
    model = Aside(LAYERS[name]())
    x, y = torch.randn(4, 3, 6, 6), torch.arange(4)
    model(x)
    if way == "node":
        logits, value = forward_with_penalty(model, x, y, penalty=penalty)
    else:
        with penalised(model, y, penalty=penalty) as held:
            logits = model(x)
        value = held.penalty
    loss = F.cross_entropy(logits, y) + LAM * value
    losses = {
        "together": [loss + model.loss],
        "after": [loss, model.loss],
    }[when]

    def backward() -> None:
        for one in losses:
            one.backward(retain_graph=one is not losses[-1])

    with pytest.raises(RuntimeError, match=r"beside its logits \(an auxiliary loss\?\)"):
        backward()


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


@pytest.mark.parametrize("penalty", [Frobenius("exact"), InputGradient()])
@pytest.mark.parametrize("name", LAYERS)
def test_before_the_backward_pass_it_adds_its_gradient(name, penalty, size):
    """The graphs are there until then."""
    torch.manual_seed(0)
    model = Aside(LAYERS[name]())
    x, y = torch.randn(4, 3, 6, 6), torch.arange(4)
    model(x)

    def gradients(way):
        model.zero_grad()
        leaf = x.clone().requires_grad_(way == "plain")
        if way == "plain":
            logits = model(leaf)
            value = penalty(logits, leaf, y)
        else:
            logits, value = forward_with_penalty(model, leaf, y, penalty=penalty)
        model.loss.backward(retain_graph=True)
        (F.cross_entropy(logits, y) + LAM * value).backward()
        return [p.grad.clone() for p in model.parameters()]

    for ours, plain in zip(gradients("node"), gradients("plain"), strict=True):
        torch.testing.assert_close(ours, plain)
