"""Batch-norm in training mode: refused, frozen for the penalty, or differentiated as it is."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from jacfast import Frobenius, InputGradient
from tests.nets import relative_error
from tests.step.networks import build
from tests.step.steps import LAM, ROUNDING, fast, gradient, loss_of, plain


@pytest.fixture
def resnet():
    """Return the network with batch statistics, a batch and labels."""
    model, x, y = build("resnet", 6)
    return model.train(), x, y


def state(model: nn.Module) -> Tensor:
    """Return all running statistics, joined."""
    return torch.cat([buffer.double().flatten() for buffer in model.buffers()])


def modes(model: nn.Module) -> list[bool]:
    return [module.training for module in model.modules()]


def test_it_is_refused(resnet):
    model, x, y = resnet
    before = state(model)
    text = "batch_norm must be 'frozen' or 'coupled' .*; got 'refuse' and 6 such layers"
    with pytest.raises(RuntimeError, match=text):
        fast(model, x, y, Frobenius())
    assert torch.equal(state(model), before)
    twin = copy.deepcopy(model)
    logits, value = fast(model, x, y, None)  # nothing to refuse without a penalty
    assert torch.equal(logits, twin(x))
    assert torch.equal(state(model), state(twin))
    assert value == 0


@pytest.mark.parametrize("chunk", [None, 2])
@pytest.mark.parametrize("penalty", [Frobenius("exact"), InputGradient()])
def test_frozen(resnet, penalty, chunk):
    """Logits and statistics of one call in training mode, the penalty of the running statistics."""
    model, x, y = resnet
    other, before = copy.deepcopy(model), modes(model)
    logits, value = fast(model, x, y, penalty, batch_norm="frozen", chunk_size=chunk)
    expected = other(x)
    assert torch.equal(logits, expected)
    assert torch.equal(state(model), state(other))
    assert modes(model) == before
    _, want = plain(other.eval(), x, y, penalty)
    assert relative_error(value, want) < ROUNDING
    reference = gradient(loss_of(expected, want, y), other)
    assert relative_error(gradient(loss_of(logits, value, y), model), reference) < ROUNDING


class Checkpointed(nn.Module):
    """A model whose backward pass runs it again."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return checkpoint(self.inner, x, use_reentrant=False)


@pytest.mark.parametrize("penalty", [Frobenius("exact"), InputGradient()])
def test_frozen_where_checkpoints_run_it_again(resnet, penalty):
    model, x, y = resnet
    other = copy.deepcopy(model)
    _, value = fast(Checkpointed(model), x, y, penalty, batch_norm="frozen")
    before = state(model)
    got = gradient(value, model)
    assert torch.equal(state(model), before)
    assert all(modes(model))
    other(x)
    _, want = plain(other.eval(), x, y, penalty)
    assert relative_error(got, gradient(want, other)) < ROUNDING


def test_frozen_of_a_part(resnet):
    model, x, y = resnet
    source = torch.Generator().manual_seed(3)
    part = Frobenius("exact", subsample=0.5)
    _, value = fast(model, x, y, part, batch_norm="frozen", generator=source)
    chosen = torch.randperm(6, generator=torch.Generator().manual_seed(3))[:3]
    _, want = plain(model.eval(), x[chosen], y[chosen], Frobenius("exact"))
    assert relative_error(value, want) < ROUNDING


def test_only_layers_in_training_mode_are_frozen_and_put_back(resnet):
    model, x, y = resnet
    model[1].eval()
    before = modes(model)
    fast(model, x, y, Frobenius(), batch_norm="frozen")
    assert modes(model) == before
    with pytest.raises(ValueError, match="n must be in"):
        fast(model, x, y, Frobenius(99), batch_norm="frozen")
    assert modes(model) == before


def test_coupled(resnet):
    """The Jacobian of all outputs in all inputs that one's own row of cotangents sees."""
    model, x, y = resnet
    other = copy.deepcopy(model)
    logits, value = fast(model, x, y, Frobenius("exact"), batch_norm="coupled")
    leaf = x.clone().requires_grad_()
    expected = other(leaf)
    rows = [
        torch.autograd.grad(expected[:, k].sum(), leaf, create_graph=True)[0]
        for k in range(expected.shape[1])
    ]
    want = sum(row.square().sum() for row in rows) / len(x)
    assert relative_error(logits, expected) < ROUNDING
    assert relative_error(value, want) < ROUNDING
    assert relative_error(state(model), state(other)) < ROUNDING
    reference = gradient(F.cross_entropy(expected, y) + LAM * want, other)
    assert relative_error(gradient(loss_of(logits, value, y), model), reference) < ROUNDING


def test_coupled_takes_the_whole_batch(resnet):
    model, x, y = resnet
    logits, _ = fast(copy.deepcopy(model), x, y, Frobenius(), batch_norm="coupled")
    assert relative_error(logits, copy.deepcopy(model)(x)) < ROUNDING
    with pytest.raises(ValueError, match=r"chunk_size must be the whole batch .*; got 2"):
        fast(model, x, y, Frobenius(), batch_norm="coupled", chunk_size=2)
    with pytest.raises(ValueError, match=r"subsample must be 1 with batch_norm=.*; got 0\.5"):
        fast(model, x, y, Frobenius(subsample=0.5), batch_norm="coupled")


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("option", ["refuse", "frozen"])
def test_layers_without_running_statistics_are_refused(option, training):
    """In eval mode these couple the samples, too, and frozen they would be the same."""
    model = nn.Sequential(nn.Linear(6, 4), nn.BatchNorm1d(4, track_running_stats=False))
    model, x = model.train(training), torch.randn(4, 6)
    with pytest.raises(
        RuntimeError, match=f"must be 'coupled' .*nothing to freeze; got '{option}'"
    ):
        fast(model, x, None, Frobenius(), batch_norm=option)
    assert fast(model, x, None, Frobenius(), batch_norm="coupled")[1] > 0


class OfItsOwn(nn.Module):
    """Batch-norm by a function, with running statistics of its own or without."""

    def __init__(self, tracks: bool) -> None:
        super().__init__()
        self.linear = nn.Linear(6, 4)
        self.mean = nn.Buffer(torch.zeros(4)) if tracks else None
        self.variance = nn.Buffer(torch.ones(4)) if tracks else None

    def forward(self, x: Tensor) -> Tensor:
        normed = F.batch_norm(self.linear(x), self.mean, self.variance, training=True)
        return normed.tanh()


@pytest.mark.parametrize("tracks", [False, True])
@pytest.mark.parametrize("option", ["refuse", "frozen"])
def test_batch_norm_by_a_function_is_seen(option, tracks):
    model, x = OfItsOwn(tracks), torch.randn(4, 6)
    with pytest.raises(RuntimeError, match="depend on the whole batch") as caught:
        fast(model, x, None, Frobenius(), batch_norm=option)
    assert ("eval mode (module.eval())" in str(caught.value)) == tracks
    assert fast(model, x, None, Frobenius(), batch_norm="coupled")[1] > 0


def test_the_option_changes_nothing_in_eval_mode(resnet):
    model, x, y = resnet
    model.eval()
    values = []
    for option in ("refuse", "frozen", "coupled"):
        logits, value = fast(model, x, y, Frobenius("exact"), batch_norm=option)
        values.append(torch.cat([value[None], gradient(loss_of(logits, value, y), model)]))
    assert relative_error(values[1], values[0]) < ROUNDING
    assert relative_error(values[2], values[0]) < ROUNDING
