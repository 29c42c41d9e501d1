"""A part of the batch, or of the steps: the right part, unbiased, fresh every time."""

import dataclasses

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from jacfast import (
    WGANGP,
    CrossLipschitz,
    Frobenius,
    InputGradient,
    Spectral,
    forward_with_penalty,
)
from jacfast.lean import Gram
from jacfast.step import cut, run
from jacfast.step import draw as draws
from tests.nets import brute_force, draw, relative_error
from tests.step.networks import SIX, build
from tests.step.steps import LAM, ROUNDING, fast, gradient, loss_of, plain

SHARES = {0.5: 3, 0.25: 2}  # of 6 samples, rounded to even
PENALTIES = {
    "exact": Frobenius("exact"),
    "two": Frobenius(2),
    "input gradient": InputGradient(),
    "spectral": Spectral(),
    "length": WGANGP(0.5),  # whose rho is not 0 of a row of zeros
}
Z = 5.0  # standard errors: one false alarm in 1.7 million normal numbers


def generator(seed: int = 7) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def of_part(penalty, share: float):
    return dataclasses.replace(penalty, subsample=share)


@pytest.mark.parametrize("chunk", [None, 2])
@pytest.mark.parametrize("share", SHARES)
@pytest.mark.parametrize("name", PENALTIES)
@pytest.mark.parametrize("network", SIX)
def test_it_is_the_penalty_of_the_chosen_samples(network, name, share, chunk):
    """Beside the loss of all; the logits are in the order of x."""
    (model, x, y), penalty = build(network, 6), PENALTIES[name]
    model.eval()
    part = of_part(penalty, share)
    logits, value = fast(model, x, y, part, chunk_size=chunk, generator=generator())
    source = generator()
    chosen = torch.randperm(6, generator=source)[: SHARES[share]]
    _, want = plain(model, x[chosen], y[chosen], penalty, generator=source)
    expected = model(x)
    assert relative_error(logits, expected) < ROUNDING
    assert relative_error(value, want) < ROUNDING
    reference = gradient(loss_of(expected, want, y), model)
    assert relative_error(gradient(loss_of(logits, value, y), model), reference) < ROUNDING


@pytest.mark.parametrize("chunk", [None, 1])
@pytest.mark.parametrize("network", ["mlp", "cifar", "vit"])
def test_x_receives_the_gradients_of_its_own_samples(network, chunk):
    model, x, y = build(network, 6)
    x.requires_grad_()
    part = Frobenius("exact", subsample=0.5)
    logits, value = fast(model, x, y, part, chunk_size=chunk, generator=generator())
    (got,) = torch.autograd.grad(F.cross_entropy(logits, y) + LAM * value, x)
    chosen = torch.randperm(6, generator=generator())[:3]
    leaf = x[chosen].detach().requires_grad_()
    (of_penalty,) = torch.autograd.grad(Frobenius("exact")(model(leaf), leaf), leaf)
    (want,) = torch.autograd.grad(F.cross_entropy(model(x), y), x)
    want[chosen] += LAM * of_penalty
    assert relative_error(got, want) < ROUNDING


def assert_mean(draws: list[Tensor], want: Tensor) -> None:
    """Compare the mean of draws [n] or [n, m] with what it estimates."""
    drawn = torch.stack(draws)
    z = (drawn.mean(0) - want) / (drawn.std(0) / len(drawn) ** 0.5)
    assert (drawn.std(0) > 0).all()
    assert (z.abs() < Z).all()


@pytest.mark.parametrize("penalty", [Frobenius(1), CrossLipschitz("exact")])
@pytest.mark.parametrize("network", ["mlp", "cifar"])
def test_value_and_gradient_are_unbiased(network, penalty):
    model, x, y = build(network, 6)
    exact = dataclasses.replace(penalty, n="exact")
    want = exact(model(x.requires_grad_()), x)
    sides = draw(sum(p.numel() for p in model.parameters()), 3)  # to look at the gradient from
    values, seen = [], []
    source = generator()
    for _ in range(200):
        _, value = fast(model, x.detach(), y, of_part(penalty, 0.34), generator=source)
        values.append(value.detach())
        seen.append(gradient(value, model) @ sides)
    assert_mean(values, want.detach())
    assert_mean(seen, gradient(want, model) @ sides)


def test_every_call_has_another_part():
    model, x, y = build("mlp", 6)
    part = Frobenius("exact", subsample=0.2)  # one sample
    with torch.no_grad():
        seen = {round(fast(model, x, y, part)[1].item(), 9) for _ in range(80)}
        alone = {round(fast(model, one[None], None, Frobenius("exact"))[1].item(), 9) for one in x}
    assert seen == alone  # one of six is left out with probability 3e-6


def test_a_generator_leaves_the_global_state_alone():
    model, x, y = build("mlp", 6)
    for penalty in (Frobenius(2, subsample=0.5), Spectral(subsample=0.5)):
        before = torch.get_rng_state()
        first = fast(model, x, y, penalty, generator=generator())
        second = fast(model, x, y, penalty, generator=generator())
        assert torch.equal(torch.get_rng_state(), before)
        assert torch.equal(first[1], second[1])
        torch.manual_seed(7)  # without one it is the global one, drawn from alike
        assert torch.equal(fast(model, x, y, penalty)[1], first[1])
        assert not torch.equal(torch.get_rng_state(), before)


def unreadable(*_):
    raise RuntimeError("Cannot call CUDAGeneratorImpl::current_seed during CUDA graph capture")


@pytest.mark.parametrize("chunk", [None, 2, 6])
def test_in_chunks_while_a_cuda_graph_is_recorded(chunk, monkeypatch):
    """The generator's state cannot be read: chunks must be known before the masks are drawn."""
    for module in (cut, run):
        monkeypatch.setattr(module, "readable", lambda device: False)
    monkeypatch.setattr(draws, "beside", unreadable)
    model, x, y = build("tutorial", 6)
    assert model.train()[-2].p > 0
    torch.manual_seed(3)
    logits, value = fast(model, x, y, Frobenius("exact", subsample=0.5), chunk_size=chunk)
    torch.manual_seed(3)
    chosen = torch.randperm(6)[:3] if chunk == 2 else None
    leaf = x.detach().requires_grad_()
    expected = model(leaf)
    chosen = torch.randperm(6)[:3] if chosen is None else chosen
    rows = [torch.autograd.grad(z, leaf, create_graph=True)[0] for z in expected[chosen].sum(0)]
    want = sum(row.square().sum() for row in rows) / 3
    assert relative_error(logits, expected) < ROUNDING
    assert relative_error(value, want) < ROUNDING
    got, wanted = loss_of(logits, value, y), loss_of(expected, want, y)
    assert relative_error(gradient(got, model), gradient(wanted, model)) < ROUNDING


@pytest.mark.parametrize("options", [{}, {"subsample": 0.5}])
@pytest.mark.parametrize("network", ["mlp", "cifar"])
def test_every_third_step(network, options):
    model, x, y = build(network, 6)
    once, third = Frobenius("exact", **options), Frobenius("exact", every=3, **options)
    for step in range(6):
        logits, value = fast(model, x, y, third, step=step, generator=generator(step))
        got = gradient(loss_of(logits, value, y), model)
        if step % 3:
            assert value == 0
            assert value.dtype == x.dtype
            want = gradient(F.cross_entropy(model(x), y), model)
        else:
            _, alone = fast(model, x, y, once, generator=generator(step))
            assert relative_error(value, 3 * alone) < ROUNDING
            want = gradient(F.cross_entropy(model(x), y) + 3 * LAM * alone, model)
        assert relative_error(got, want) < ROUNDING
        assert relative_error(logits, model(x)) < ROUNDING


def test_the_mean_over_a_period_is_the_penalty():
    model, x, _ = build("mlp", 6)
    third = Frobenius("exact", every=3)
    total = sum(
        forward_with_penalty(model, x, penalty=third, step=step)[1] for step in range(4, 10)
    )
    want, grads = brute_force(model, x)
    assert relative_error(total / 6, want) < ROUNDING
    joined = torch.cat([g.flatten() for g in grads.values()])
    assert relative_error(gradient(total / 6, model), joined) < ROUNDING


def test_a_step_left_out_calls_the_model_as_it_is():
    model, x, y = build("resnet")
    model.train()
    tracked = model[1].num_batches_tracked.item()
    with pytest.raises(RuntimeError, match="batch_norm must be"):
        fast(model, x, y, Frobenius(every=2), step=2)
    fast(model, x, y, Frobenius(every=2), step=3, batch_norm="frozen")
    assert model[1].num_batches_tracked == tracked + 1


@pytest.mark.parametrize(("width", "calls"), [(8, 1), (1 << 17, 2)])
@pytest.mark.parametrize("size", ["small"])
def test_only_a_large_batch_is_worth_two_calls(width, calls, size, monkeypatch):
    """The penalised samples pass first and alone, which costs a call more."""
    model, x = (
        nn.Sequential(nn.Linear(2, width), nn.ReLU(), nn.Linear(width, 3)),
        draw(4, 2).float(),
    )
    part, call, seen = Frobenius(subsample=0.5), nn.Linear.__call__, []
    forward_with_penalty(model, x, penalty=part)  # the size of its tensors is looked at once
    monkeypatch.setattr(nn.Linear, "__call__", lambda *a: seen.append(1) or call(*a))
    forward_with_penalty(model, x, penalty=part)
    assert len(seen) == 2 * calls


class Own(nn.Module):
    """A class of one's own: the batch passes whole, and the penalised are chosen afterwards."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(30, 4), nn.Tanh(), nn.Linear(4, 3)).double()

    def forward(self, x):
        return self.layers(x)


def test_the_gram_matrix_serves_the_chosen_as_well(monkeypatch):
    """Else a part of the batch is dearer than the whole: all samples are pulled back for it."""
    torch.manual_seed(0)
    model, x, seen, square = Own(), draw(16, 30), [], Gram.square
    monkeypatch.setattr(Gram, "square", lambda self, d: seen.append(len(d)) or square(self, d))
    _, value = forward_with_penalty(
        model, x, penalty=Frobenius("exact", subsample=0.25), generator=generator()
    )
    chosen = torch.randperm(16, generator=generator())[:4]
    want, grads = brute_force(model, x[chosen])
    assert seen == [4] * 3
    assert relative_error(value, want) < ROUNDING
    joined = torch.cat([grads[name].flatten() for name, _ in model.named_parameters()])
    assert relative_error(gradient(value, model), joined) < ROUNDING
