"""What calls with lean layers return is what they return without, and the model what it was."""

import pytest
import torch
from torch import nn

from jacfast import deepfool, distance_bounds, jacobian, vjp
from jacfast.lean import calls as layers
from jacfast.lean import conv, lean
from jacfast.ops import lives
from jacfast.vjp import pull_back
from tests.lean.sweeps import names
from tests.nets import build, draw


def net():
    torch.manual_seed(0)
    layers = [nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 3)]
    return nn.Sequential(*layers).double().requires_grad_(False)


def leaf(samples=2):
    return draw(samples, 1, 8, 8).requires_grad_()


def test_the_model_is_as_it_was_also_after_an_error():
    model = net()
    before = dict(vars(model[0]))
    with lean(model):
        assert vars(model[0]) == before
    with pytest.raises(RuntimeError, match="size"), lean(model):
        model(torch.zeros(1, 1, 2, 9, dtype=torch.float64, requires_grad=True))
    assert vars(model[0]) == before
    assert "AffineBackward" not in names(model(leaf()))


def pooled(*window, **options):
    torch.manual_seed(0)
    layers = [nn.Conv2d(1, 4, 3), nn.ReLU(), nn.MaxPool2d(*window, **options), nn.Flatten()]
    model = nn.Sequential(*layers).double()
    outputs = model(leaf()).shape[1]
    return model.append(nn.Linear(outputs, 3).double()).requires_grad_(False)


NETS = {
    "convolution": net,
    "pooling": lambda: pooled(2),
    "windows that overlap": lambda: pooled(3, 1),
    "padded windows": lambda: pooled(3, 2, padding=1),
}


@pytest.mark.parametrize("name", NETS)
def test_batched_rows_are_the_looped_ones(name, monkeypatch):
    model, x = NETS[name](), leaf(3)
    vectors, batched, routine = draw(4, 3, 3), [], vjp.grad
    with lean(model):
        y = model(x)
    assert torch.equal(y, model(x))
    own_op = bool(lives.BUILT) and name in ("pooling", "windows that overlap")
    assert ("MaxPool2dBackward" in names(y)) == own_op

    def spy(*arguments, **options):
        batched.append(options["batched"])
        return routine(*arguments, **options)

    monkeypatch.setattr(vjp, "grad", spy)
    got = pull_back(y, x, vectors, create_graph=False)
    assert batched == [True]
    looped = [torch.autograd.grad(model(x), x, v)[0].flatten(1) for v in vectors]
    torch.testing.assert_close(got, torch.stack(looped))


CALLS = {
    "deepfool": lambda model, x: deepfool(model, x).r,
    "jacobian": jacobian,
    "distance_bounds": lambda model, x: distance_bounds(model, x).boundary,
}


@pytest.mark.parametrize("name", CALLS)
def test_who_uses_them(name, monkeypatch):
    """A result is that of the stock layers, of the very model that has trainable parameters."""
    model, x = build("cnn", 6)
    calls, routine = [], conv.by_blocks
    monkeypatch.setattr(conv, "by_blocks", lambda *a: calls.append(1) or routine(*a))
    got = CALLS[name](model, x)
    assert calls
    calls.clear()
    monkeypatch.setattr(layers, "pays", lambda *shape: False)
    torch.testing.assert_close(got, CALLS[name](model, x))
    assert not calls
