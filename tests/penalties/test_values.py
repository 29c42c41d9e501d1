"""Every penalty: value and gradient against float64 brute force."""

import functools
import math

import pytest
import torch
from torch import Tensor, nn

from jacfast import Spectral
from tests.nets import NETS, RTOL, relative_error, rows_of
from tests.penalties.formulas import EXACT, PENALTIES, by_hand, labelled, seeded
from tests.testing import batch_rows


@functools.cache
def truth(net: str, name: str) -> tuple[Tensor, dict[str, Tensor]]:
    model, x, y, _ = labelled(net, samples=2)
    return by_hand(name, model, x, y)


def assert_equal(value: Tensor, model: nn.Module, want, rtol: float) -> None:
    """Compare a value and its gradient in every parameter with those of `by_hand`."""
    expected, gradients = want
    assert value.shape == ()
    assert relative_error(value, expected) < rtol
    names, params = zip(*model.named_parameters(), strict=True)
    got = torch.autograd.grad(value, params, materialize_grads=True)
    scale = max(g.norm() for g in gradients.values())
    assert scale > 0
    for name, gradient in zip(names, got, strict=True):
        assert (gradient - gradients[name]).norm() < rtol * scale, name


@pytest.mark.parametrize("name", EXACT)
@pytest.mark.parametrize("net", NETS)
def test_value_and_gradient_equal_brute_force(net, name):
    model, x, y, k = labelled(net, samples=2)
    value = EXACT[name][0](k)(model(x), x, y, generator=seeded())
    assert_equal(value, model, truth(net, name.split(" of ")[0]), RTOL[x.dtype])


def ratio_of_singular_values(model: nn.Module, x: Tensor) -> float:
    """Return the largest s_2 / s_1 of the batch; a zero Jacobian has 0."""
    params = dict(model.named_parameters())
    s = torch.stack([torch.linalg.svdvals(rows_of(model, params, one).detach()) for one in x])
    return float((s[:, 1] / s[:, 0].clamp_min(1e-300)).max())


@pytest.mark.parametrize("net", NETS)
def test_spectral_converges_to_the_largest_singular_value(net):
    """An iteration shrinks the error of u by (s_2 / s_1)^2: so many that it is 1e-9 of the first.

    The error of the gradient goes with that of u, the error of the value with its square.
    """
    batches = (labelled(net, samples=2, seed=seed) for seed in range(20))
    model, x, y, _ = next(b for b in batches if ratio_of_singular_values(*b[:2]) < 0.9)
    ratio = ratio_of_singular_values(model, x)
    iterations = math.ceil(math.log(1e-9) / (2 * math.log(ratio)))
    value = Spectral(iterations)(model(x), x, generator=seeded())
    want = by_hand("spectral", model, x, y)
    assert relative_error(value, want[0]) < RTOL[x.dtype]
    assert_equal(value, model, want, 1e-6)


@pytest.mark.parametrize("net", ["mlp", "cnn", "grid"])
def test_spectral_rises_with_the_iterations_and_stays_below(net):
    model, x, _, _ = labelled(net, samples=2)
    logits, want = model(x), truth(net, "spectral")[0]
    values = [float(Spectral(i)(logits, x, generator=seeded()).detach()) for i in (1, 2, 3, 6, 12)]
    assert values == sorted(values)
    assert values[0] < values[-1] <= float(want) * (1 + 1e-12)


@pytest.mark.parametrize("name", EXACT)
def test_the_mean_over_samples_in_any_order(name):
    """Also of samples taken one by one; the square of a root is their sum."""
    model, x, y, k = labelled("mlp")
    penalty = EXACT[name][0](k)

    def value(part: Tensor) -> Tensor:
        leaf = x.detach()[part].requires_grad_()
        return penalty(model(leaf), leaf, y[part])

    samples = torch.arange(len(x))
    whole, each = value(samples), torch.stack([value(i) for i in samples.split(1)])
    torch.testing.assert_close(value(samples.flip(0)), whole)
    torch.testing.assert_close(each.norm() if name.startswith("root") else each.mean(), whole)


@pytest.mark.parametrize("name", PENALTIES)
def test_small_and_large_batches_agree(name, monkeypatch):
    """Rows in one backward pass or one by one."""
    model, x, y, _ = labelled("group_norm_silu")
    logits, params, results = model(x), list(model.parameters()), []
    for together in (True, False):
        batch_rows(monkeypatch, together)
        value = PENALTIES[name](logits, x, y, generator=seeded())
        grads = torch.autograd.grad(value, params, retain_graph=True, materialize_grads=True)
        results.append((value, *grads))
    torch.testing.assert_close(results[0], results[1], rtol=1e-10, atol=1e-12)
