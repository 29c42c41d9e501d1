"""A first linear layer whose input has the samples in any of its dimensions, or in rows."""

import dataclasses

import pytest
import torch
from torch import nn

from jacfast import CrossLipschitz, Frobenius
from jacfast.lean import Gram
from tests.nets import relative_error
from tests.step.steps import ROUNDING, fast, gradient

N, T, D = 6, 6, 8  # as many tokens as samples: none of these dimensions shows which it is

# How a batch [N, T, D] gets to the first layer, and how its outputs [..., 3] get back to [N, T, 3].
LAYOUTS = {
    "as it is": (lambda x: x, lambda z, n: z),
    "rows": (lambda x: x.reshape(-1, D), lambda z, n: z.view(n, -1, 3)),
    "flattened": (lambda x: x.flatten(0, 1), lambda z, n: z.unflatten(0, (n, -1))),
    "there and back": (lambda x: x.view(-1, D).unflatten(0, (len(x), -1)), lambda z, n: z),
    "one in front": (lambda x: x.view(1, len(x), T, D), lambda z, n: z[0]),
    "one between": (lambda x: x[:, None], lambda z, n: z[:, 0]),
    "tokens first": (lambda x: x.transpose(0, 1), lambda z, n: z.transpose(0, 1)),
    "permuted": (lambda x: x.permute(1, 0, 2), lambda z, n: z.transpose(0, 1)),
    "rows of tokens": (
        lambda x: x.transpose(0, 1).reshape(-1, D),
        lambda z, n: z.view(T, n, 3).transpose(0, 1),
    ),
    "another order": (
        lambda x: x.unflatten(0, (-1, 2 - len(x) % 2)).transpose(0, 1).reshape(x.shape),
        lambda z, n: z.unflatten(0, (2 - n % 2, -1)).transpose(0, 1).reshape(z.shape),
    ),
    "entries of a sample": (
        lambda x: x.transpose(1, 2).reshape(len(x), D, T).transpose(1, 2),
        lambda z, n: z,
    ),
}
PENALTIES = {
    "exact": Frobenius("exact"),
    "two": Frobenius(2),
    "weights": Frobenius("exact", weights=torch.tensor([1.0, 0.5, 2.0]).double()),
    "differences": CrossLipschitz("exact"),
}


class Net(nn.Module):
    """Two layers of each token, and the mean of its tokens."""

    def __init__(self, layout: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.last = nn.Linear(D, 4), nn.Linear(4, 3)
        self.there, self.back = LAYOUTS[layout]

    def forward(self, x):
        z = self.last(torch.tanh(self.first(self.there(x))))
        return self.back(z, len(x)).mean(1)


def case(layout: str):
    return Net(layout).double(), torch.randn(N, T, D).double(), torch.arange(N) % 3


def by_hand(model, x, penalty, draw):
    """Return the sum over the cotangents of each sample's ||J^T v||^2, [N]."""
    leaf = x.detach().requires_grad_()
    logits = model(leaf)
    sizes = [
        torch.autograd.grad(logits, leaf, v, create_graph=True)[0].flatten(1).square().sum(1)
        for v in penalty.cotangents(logits.detach(), leaf, None, draw)
    ]
    return sum(sizes)


def source() -> torch.Generator:
    return torch.Generator().manual_seed(7)


@pytest.fixture
def squares(monkeypatch):
    """Return how many rows the Gram matrices have measured, call by call."""
    seen, square = [], Gram.square

    def counted(self, d):
        seen.append(d.shape[:-1].numel())
        return square(self, d)

    monkeypatch.setattr(Gram, "square", counted)
    return seen


@pytest.mark.parametrize("options", [{}, {"chunk_size": 4}, {"at": 0.5}], ids=str)
@pytest.mark.parametrize("share", [1, 0.5])
@pytest.mark.parametrize("name", PENALTIES)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_it_is_the_penalty_of_the_chosen(layout, name, share, options, squares):
    (model, x, y), penalty = case(layout), PENALTIES[name]
    part, generator = dataclasses.replace(penalty, subsample=share), source()
    chosen = torch.randperm(N, generator=generator)[: N // 2] if share < 1 else torch.arange(N)
    places = x * 0.5 if "at" in options else x
    given = {**options, **({"at": places} if "at" in options else {})}
    logits, value = fast(model, x, y, part, generator=source(), **given)
    generator = generator if share < 1 else source()
    draw = penalty.draw(len(chosen), logits.detach(), generator)
    want = by_hand(model, places[chosen], penalty, draw).mean()
    assert squares
    assert relative_error(logits, model(x)) < ROUNDING
    assert relative_error(value, want) < ROUNDING
    assert relative_error(gradient(value, model), gradient(want, model)) < ROUNDING


@pytest.mark.parametrize("chunk_size", [None, 4])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_value_of_each_sample(layout, chunk_size, squares):
    model, x, y = case(layout)
    penalty = Frobenius("exact", reduction="none")
    _, value = fast(model, x, y, penalty, chunk_size=chunk_size)
    want, weights = by_hand(model, x, penalty, None), torch.linspace(0, 1, N).double()
    assert not squares
    assert relative_error(value, want) < ROUNDING
    got = gradient((weights * value).sum(), model)
    assert relative_error(got, gradient((weights * want).sum(), model)) < ROUNDING


@pytest.mark.parametrize("layout", ["as it is", "rows", "flattened", "one in front", "one between"])
def test_only_rows_of_the_chosen_are_measured(layout, squares):
    model, x, y = case(layout)
    fast(model, x, y, Frobenius("exact", subsample=0.5), generator=source())
    assert squares == [T * N // 2] * 3


def test_one_sample_without_a_dimension_of_its_own(squares):
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Linear(30, 4), nn.Tanh(), nn.Linear(4, 3)).double()

    class Row(nn.Sequential):
        def forward(self, x):
            return super().forward(x.squeeze())[None]

    model, x = Row(*layers), torch.randn(1, 30).double()
    _, value = fast(model, x, None, Frobenius("exact"))
    want = by_hand(model, x, Frobenius("exact"), None).mean()
    assert squares == [1] * 3
    assert relative_error(value, want) < ROUNDING
    assert relative_error(gradient(value, model), gradient(want, model)) < ROUNDING
