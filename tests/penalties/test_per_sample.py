"""reduction="none": the samples' own values, and the gradient of any weighted sum of them."""

import dataclasses

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import jacfast
from examples.own_penalty import TopLogit
from jacfast import Frobenius, JacobianReg, Spectral, forward_with_penalty
from jacfast.penalties import Penalty
from tests.nets import build, parameters, relative_error, rows_of
from tests.penalties.formulas import EXACT, labelled, seeded
from tests.penalties.test_functions import FORMS
from tests.step.networks import SIX
from tests.step.networks import build as build_six
from tests.step.steps import ROUNDING, gradient

NAMES = [name for name in EXACT if not name.startswith("root")]


def one_line(model, x, y, penalty):
    return model(x), penalty(model(x), x, y)


def node(model, x, y, penalty):
    return forward_with_penalty(model, x.detach(), y, penalty=penalty)


def in_parts(model, x, y, penalty):
    return forward_with_penalty(model, x.detach(), y, penalty=penalty, chunk_size=2)


def elsewhere(model, x, y, penalty):
    return forward_with_penalty(model, x.detach() + 1, y, penalty=penalty, at=x.detach())


@pytest.mark.parametrize("way", [one_line, node, in_parts, elsewhere])
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("net", ["mlp", "cnn"])
def test_values_and_weighted_gradients_equal_the_formulas(net, name, way):
    model, x, y, k = labelled(net)
    make, formula = EXACT[name]
    weights = torch.tensor([2.0, 0.0, 0.5], dtype=torch.float64)

    def by_hand(params):
        samples = zip(x.detach(), y, strict=True)
        return torch.stack([formula(model, params, *one) for one in samples])

    params = parameters(model)
    want = torch.func.grad(lambda params: (weights * by_hand(params)).sum())(params)
    penalty = dataclasses.replace(make(k), reduction="none")
    _, values = way(model, x, y, penalty)
    assert values.shape == (3,)
    assert relative_error(values, by_hand(params)) < ROUNDING
    loss = (weights * values).sum()
    got = torch.autograd.grad(loss, list(model.parameters()), materialize_grads=True)
    for g, (key, _) in zip(got, model.named_parameters(), strict=True):
        assert relative_error(g, want[key]) < ROUNDING


@pytest.mark.parametrize("penalty", [Frobenius(2), Spectral()])
@pytest.mark.parametrize("network", SIX)
def test_their_mean_is_the_penalty(network, penalty):
    model, x, y = build_six(network)
    model.eval()
    found = []
    for reduction in ("mean", "none"):
        torch.manual_seed(0)
        each = dataclasses.replace(penalty, reduction=reduction)
        value = forward_with_penalty(model, x, y, penalty=each)[1].mean()
        found.append(torch.cat([value[None].detach(), gradient(value, model)]))
    assert relative_error(*found) < ROUNDING


def test_many_projections_of_a_linear_first_layer():
    """Where their sum is taken in another way."""
    model, x = build("mlp", 40)
    values = forward_with_penalty(model, x, penalty=Frobenius("exact", reduction="none"))[1]
    params = parameters(model)
    want = torch.stack([rows_of(model, params, sample).square().sum() for sample in x])
    assert relative_error(values, want) < ROUNDING


@pytest.mark.parametrize(("function", "arguments", "penalty"), FORMS)
def test_the_functions_have_it(function, arguments, penalty):
    model, x, y, _ = labelled("mlp")
    arguments = [y if argument == "y" else argument for argument in arguments]
    torch.manual_seed(2)
    got = getattr(jacfast, function)(model(x), x, *arguments, reduction="none")
    torch.manual_seed(2)
    assert got.shape == (3,)
    assert relative_error(got.mean(), penalty(model(x), x, y)) < ROUNDING


def test_explicit_vectors_and_the_class_people_know():
    model, x, _, _ = labelled("mlp")
    vectors = torch.randn(2, 3, 5, generator=seeded(), dtype=torch.float64)
    got = jacfast.frobenius_penalty(model(x), x, vectors=vectors, reduction="none")
    rows = [rows_of(model, parameters(model), sample) for sample in x.detach()]
    want = [(vectors[:, i] @ j).square().sum() for i, j in enumerate(rows)]
    assert relative_error(got, torch.stack(want)) < ROUNDING
    got = JacobianReg(-1, reduction="none")(x, model(x))
    assert relative_error(got, torch.stack([j.square().sum() / 2 for j in rows])) < ROUNDING


def test_a_step_without_a_penalty_has_zeros():
    model, x, _, _ = labelled("mlp")
    every = Frobenius(every=2, reduction="none")
    assert torch.equal(forward_with_penalty(model, x, penalty=every, step=1)[1], 0 * x[:, 0])
    twice = forward_with_penalty(model, x, penalty=every, step=2, generator=seeded())[1]
    once = Frobenius(reduction="none")
    alone = forward_with_penalty(model, x, penalty=once, generator=seeded())[1]
    assert relative_error(twice, 2 * alone) < ROUNDING


def test_what_does_not_fit_is_refused():
    for kind in (Frobenius, JacobianReg):
        with pytest.raises(ValueError, match="reduction must be one of mean, none; got 'sum'"):
            kind(reduction="sum")
    with pytest.raises(ValueError, match=r"subsample must be 1 with reduction='none'.*got 0\.5"):
        Frobenius(reduction="none", subsample=0.5)
    with pytest.raises(ValueError, match="reduction must be 'mean' with root=True"):
        Frobenius(reduction="none", root=True)


@pytest.mark.parametrize("net", ["mlp", "cnn"])
def test_a_penalty_of_ones_own(net):
    """The example's: its value and gradient by hand, in both ways, of a part of the batch, too."""
    model, x, y, _ = labelled(net)
    top = model(x).argmax(dim=1)

    def by_hand(params, samples):
        rows = [rows_of(model, params, x[i].detach())[top[i]] for i in samples]
        return torch.stack([row.square().sum() for row in rows]).mean()

    for way in (one_line, node):
        value = way(model, x, y, TopLogit())[1]
        assert relative_error(value, by_hand(parameters(model), range(3))) < ROUNDING
        want = torch.func.grad(lambda params: by_hand(params, range(3)))(parameters(model))
        joined = torch.cat([g.flatten() for g in want.values()])
        assert relative_error(gradient(value, model), joined) < ROUNDING
    for own in (model, Wrapped(model)):  # cut, and whole
        part = TopLogit(subsample=0.34)
        value = forward_with_penalty(own, x.detach(), penalty=part, generator=seeded())[1]
        chosen = torch.randperm(3, generator=seeded())[:1].tolist()
        assert relative_error(value, by_hand(parameters(model), chosen)) < ROUNDING


class Wrapped(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x):
        return self.model(x)


def test_all_that_ones_own_penalty_may_choose():
    """Labels, options, randomness and a norm that no penalty of the library has."""

    @dataclasses.dataclass(frozen=True)
    class Huber(Penalty):
        width: float = 0.02
        needs_labels = True

        def draw(self, samples, logits, generator):
            return torch.rand(samples, 1, dtype=logits.dtype, generator=generator)

        def cotangents(self, logits, x, y, draw):
            return (draw * F.one_hot(y, logits.shape[1]))[None]

        def measure(self, g):
            return F.huber_loss(g, torch.zeros_like(g), "none", self.width).sum(1)

    model, x, y, _ = labelled("mlp")
    scale = torch.rand(3, 1, dtype=torch.float64, generator=seeded())
    rows = torch.stack([rows_of(model, parameters(model), s) for s in x.detach()])
    g = scale * rows[torch.arange(3), y]
    small = g.abs() < 0.02
    want = torch.where(small, g.square() / 2, 0.02 * (g.abs() - 0.01)).sum(1).mean()
    assert small.any()
    assert not small.all()
    assert relative_error(Huber()(model(x), x, y, generator=seeded()), want) < ROUNDING
    got = forward_with_penalty(model, x, y, penalty=Huber(), chunk_size=2, generator=seeded())[1]
    assert relative_error(got, want) < ROUNDING
    with pytest.raises(ValueError, match="y must be given: Huber depends on the labels"):
        Huber()(model(x), x)
