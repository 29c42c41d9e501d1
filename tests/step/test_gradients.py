"""forward_with_penalty gives the logits, the penalty and the gradients of plain autograd."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from jacfast import (
    R1,
    R2,
    WGANGP,
    ColumnSumL1,
    CrossLipschitz,
    DecisionFunction,
    EntrywiseL1,
    Frobenius,
    InputGradient,
    Spectral,
)
from tests.nets import brute_force, relative_error
from tests.step.entries import ENTRIES
from tests.step.networks import CLASSES, SIX, build
from tests.step.others import OTHERS
from tests.step.steps import (
    ROUNDING,
    assert_same,
    fast,
    gradient,
    loss_of,
    plain,
    step,
)

WEIGHTS = torch.linspace(0, 1, CLASSES, dtype=torch.float64)
PENALTIES = {
    "one projection": Frobenius(1),
    "exact": Frobenius("exact"),
    "root": Frobenius(2, root=True),
    "weights": Frobenius("exact", weights=WEIGHTS),
    "cross-lipschitz": CrossLipschitz(2),
    "input gradient": InputGradient(),
    "l1": EntrywiseL1(2),
    "column sum": ColumnSumL1(),
    "decision": DecisionFunction("l2"),
    "spectral": Spectral(),
    "wgan-gp": WGANGP(0.5),
    "r1": R1(),
    "r2": R2(),
}
UNUSUAL = OTHERS | ENTRIES
CHUNKS = (None, 2)  # of 5 samples


def both(model, x, y, penalty, chunk):
    """Return the step in both ways; in chunks the penalty has a generator, dropout the seed."""
    sources = (None, None)
    if chunk is not None:
        sources = [torch.Generator().manual_seed(1) for _ in range(2)]
    return [
        step(way, model, x, y, penalty, chunk_size=chunk, generator=source)
        for way, source in zip((fast, plain), sources, strict=True)
    ]


@pytest.mark.parametrize("chunk", CHUNKS)
@pytest.mark.parametrize("penalty", PENALTIES)
@pytest.mark.parametrize("name", SIX)
def test_the_six(name, penalty, chunk):
    model, x, y = build(name, 5)
    assert_same(*both(model, x, y, PENALTIES[penalty], chunk))


@pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")
@pytest.mark.parametrize("chunk", CHUNKS)
@pytest.mark.parametrize("penalty", ["one projection", "exact", "l1", "spectral"])
@pytest.mark.parametrize("name", UNUSUAL)
def test_what_is_unusual(name, penalty, chunk):
    model, x, y = build(name, 5, nets=UNUSUAL)
    assert_same(*both(model, x, y, PENALTIES[penalty], chunk))


@pytest.mark.parametrize("size", ["small"])
@pytest.mark.parametrize("penalty", PENALTIES)
@pytest.mark.parametrize("name", SIX)
def test_the_six_without_lean_layers(name, penalty, size):
    model, x, y = build(name, 5)
    assert_same(*both(model, x, y, PENALTIES[penalty], None))


@pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")
@pytest.mark.parametrize("size", ["small"])
@pytest.mark.parametrize("penalty", ["one projection", "exact"])
@pytest.mark.parametrize("name", UNUSUAL)
def test_what_is_unusual_without_lean_layers(name, penalty, size):
    model, x, y = build(name, 5, nets=UNUSUAL)
    assert_same(*both(model, x, y, PENALTIES[penalty], None))


@pytest.mark.parametrize("penalty", ["exact", "input gradient"])
@pytest.mark.parametrize("chunk", CHUNKS)
def test_weights_that_are_computed_once_for_all_chunks(penalty, chunk):
    model, x, y = build("weight_norm", 5, nets=OTHERS)
    want = step(plain, model, x, y, PENALTIES[penalty])
    with nn.utils.parametrize.cached():
        assert_same(step(fast, model, x, y, PENALTIES[penalty], chunk_size=chunk), want)


@pytest.mark.parametrize("name", SIX)
def test_brute_force(name):
    model, x, y = build(name)
    model.eval()
    logits, value = fast(model, x, y, Frobenius("exact"), chunk_size=3)
    assert torch.equal(logits, torch.cat([model(part) for part in x.split(3)]))
    want, grads = brute_force(model, x)
    assert relative_error(value, want) < ROUNDING
    joined = torch.cat([g.flatten() for g in grads.values()])
    assert relative_error(gradient(value, model), joined) < ROUNDING


@pytest.mark.parametrize("name", SIX)
def test_a_weighted_sum_of_the_samples_values(name):
    """Whose weights are not known before the loss is there, so that nothing is collected early."""
    model, x, y = build(name, 5)
    model.eval()
    weights, grads = torch.tensor([2, 0, 0.5, 1, 3], dtype=torch.float64), []
    for way in (fast, plain):
        torch.manual_seed(0)
        logits, values = way(model, x, y, Frobenius(2, reduction="none"))
        grads.append(gradient(F.cross_entropy(logits, y) + (weights * values).sum(), model))
    assert relative_error(*grads) < ROUNDING


@pytest.mark.parametrize("entering", ["logits", "penalty"])
@pytest.mark.parametrize("penalty", ["one projection", "input gradient", "root"])
@pytest.mark.parametrize("name", SIX)
def test_only_one_of_the_two_enters_the_loss(name, penalty, entering):
    model, x, y = build(name)
    grads = []
    for way in (fast, plain):
        torch.manual_seed(0)
        logits, value = way(model, x, y, PENALTIES[penalty])
        loss = F.cross_entropy(logits, y) if entering == "logits" else value
        grads.append(gradient(loss, model))
    assert relative_error(*grads) < ROUNDING


@pytest.mark.parametrize("chunk", CHUNKS)
@pytest.mark.parametrize("penalty", PENALTIES)
@pytest.mark.parametrize("name", SIX)
def test_x_receives_its_gradient(name, penalty, chunk):
    model, x, y = build(name, 5)
    model.eval()
    grads = []
    for way in (fast, plain):
        torch.manual_seed(0)
        leaf = x.clone().requires_grad_()
        logits, value = way(model, 2 * leaf, y, PENALTIES[penalty], chunk_size=chunk)
        grads.append(gradient(loss_of(logits, value, y), model, leaf))
    assert relative_error(*grads) < ROUNDING
    assert relative_error(*(g[-x.numel() :] for g in grads)) < ROUNDING


@pytest.mark.parametrize("name", ENTRIES)
def test_x_receives_its_gradient_through_what_is_unusual(name):
    model, x, y = build(name, nets=ENTRIES)
    grads = []
    for way in (fast, plain):
        leaf = x.clone().requires_grad_()
        grads.append(gradient(loss_of(*way(model, leaf, y, Frobenius("exact")), y), model, leaf))
    assert relative_error(*(g[-x.numel() :] for g in grads)) < ROUNDING


@pytest.mark.parametrize("requires_grad", [False, True])
@pytest.mark.parametrize("name", SIX)
def test_without_gradients_the_values_are_the_same(name, requires_grad):
    model, x, y = build(name)
    torch.manual_seed(0)
    want = plain(model, x, y, Spectral())
    torch.manual_seed(0)
    with torch.no_grad():
        got = fast(model, x.requires_grad_(requires_grad), y, Spectral())
    assert not any(one.requires_grad for one in got)
    assert_same(got, want)


@pytest.mark.parametrize("samples", [1, 5])
@pytest.mark.parametrize("name", SIX)
def test_numbers_of_samples(name, samples):
    model, x, y = build(name, samples)
    model.eval()
    for chunk in (1, 2, samples, 100):
        torch.manual_seed(0)
        got = step(fast, model, x, y, CrossLipschitz(1), chunk_size=chunk)
        assert_same(got, step(plain, model, x, y, CrossLipschitz(1)))
