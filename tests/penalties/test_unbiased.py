"""The random penalties are unbiased, in value and in gradient; and where their draws come from.

A call penalises one input many times over, each time with a draw of its own, in CALLS calls. The
mean over the calls of the value, and of each entry of its gradient, becomes a z-score, and
|z| < 8 is allowed. With CALLS - 1 degrees of freedom of Student's t that is one false alarm in
1e9; the file makes about 1000 such checks, so 1e-6 in all, over the choice of the seeds; with
the seeds fixed the outcome never changes. The standard error of the value must be below 1 %
of it, and that of the gradient below 2 % of its length, else the z-scores would tell nothing.
"""

import math

import pytest
import torch
from torch import Tensor

from jacfast import CrossLipschitz, EntrywiseL1, Frobenius, Spectral
from jacfast.penalties import Penalty
from tests.nets import build
from tests.penalties.formulas import by_hand, labelled, seeded, weights

CALLS = 40
REPEATS = 640  # of the input in a call
Z = 8.0

CASES = {
    "frobenius": lambda n: Frobenius(n),
    "weighted": lambda n: Frobenius(n, weights=weights(5)),
    "cross-lipschitz": lambda n: CrossLipschitz(n),
    "entrywise": lambda n: EntrywiseL1(n),
}
RANDOM = {
    "frobenius": Frobenius(2),
    "root": Frobenius(2, root=True),
    "weighted": Frobenius(1, weights=weights(5)),
    "cross-lipschitz": CrossLipschitz(2),
    "entrywise": EntrywiseL1(2),
    "spectral": Spectral(1),
}


def estimates(penalty: Penalty, seed: int) -> tuple[Tensor, Tensor, tuple]:
    """Return CALLS values, CALLS gradients in all parameters, and the network with its input."""
    model, one = build("mlp", samples=1, seed=4)
    params, generator = list(model.parameters()), seeded(seed)
    x = one.expand(REPEATS, -1).clone().requires_grad_()
    logits, values, gradients = model(x), [], []
    for _ in range(CALLS):
        value = penalty(logits, x, generator=generator)
        grads = torch.autograd.grad(value, params, retain_graph=True, materialize_grads=True)
        values.append(value.detach())
        gradients.append(torch.cat([g.flatten() for g in grads]))
    return torch.stack(values), torch.stack(gradients), (model, one)


@pytest.mark.parametrize("n", [1, 2])
@pytest.mark.parametrize("name", CASES)
def test_value_and_gradient_are_unbiased(name, n):
    values, gradients, (model, one) = estimates(CASES[name](n), seed=20 + n)
    want, by_name = by_hand(name, model, one, torch.zeros(1, dtype=torch.int64))
    wanted = torch.cat([by_name[key].flatten() for key, _ in model.named_parameters()])
    error = values.std() / math.sqrt(CALLS)
    assert 0 < error < 0.01 * want
    assert abs(float((values.mean() - want) / error)) < Z
    errors = gradients.std(dim=0) / math.sqrt(CALLS)
    assert 0 < errors.norm() < 0.02 * wanted.norm()
    moved = errors > 1e-12 * errors.max()
    assert int(moved.sum()) > 100
    z = (gradients.mean(dim=0) - wanted)[moved] / errors[moved]
    assert float(z.abs().max()) < Z
    torch.testing.assert_close(gradients.mean(dim=0)[~moved], wanted[~moved])


@pytest.mark.parametrize("name", RANDOM)
def test_every_sample_has_a_draw_of_its_own(name):
    """At one input, repeated, the gradient differs; not with all projections, which are exact."""
    model, one = build("smooth_mlp", samples=1)
    x = one.repeat(8, 1).requires_grad_()
    (g,) = torch.autograd.grad(RANDOM[name](model(x), x, generator=seeded()), x)
    assert (g - g[0]).norm() > 1e-3 * g.norm()
    (g,) = torch.autograd.grad(Frobenius(5)(model(x), x), x)
    torch.testing.assert_close(g, g[:1].expand_as(g))


@pytest.mark.parametrize("name", RANDOM)
def test_draws_repeat_with_the_seed(name):
    model, x, _, _ = labelled("mlp")
    logits = model(x)

    def drawn() -> float:
        return float(RANDOM[name](logits, x).detach())

    torch.manual_seed(0)
    first, second = drawn(), drawn()
    assert first != second
    torch.manual_seed(0)
    assert (drawn(), drawn()) == (first, second)


@pytest.mark.parametrize("name", RANDOM)
def test_a_generator_is_used_and_the_global_one_left_alone(name):
    model, x, _, _ = labelled("mlp")
    logits, state = model(x), torch.get_rng_state()

    def drawn(generator: torch.Generator) -> float:
        return float(RANDOM[name](logits, x, generator=generator).detach())

    one = seeded(7)
    first, second = drawn(one), drawn(one)
    assert first != second
    assert drawn(seeded(7)) == first
    assert drawn(seeded(8)) != first
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("name", RANDOM)
def test_draws_are_those_of_the_generator_whatever_the_default_dtype(name):
    model, x = build("mlp", 4, torch.float32)
    x.requires_grad_()
    found = []
    for default in (torch.float32, torch.float64):
        torch.set_default_dtype(default)
        try:
            found.append(RANDOM[name](model(x), x, generator=seeded(3)))
        finally:
            torch.set_default_dtype(torch.float32)
    assert torch.equal(*found)
