"""One training forward changes the model as one `model(x)` does, and gives its logits."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from jacfast import Frobenius, forward_with_penalty
from jacfast.training import Defence, fit
from tests.nets import relative_error
from tests.step.changing import CHANGING, SHAPE
from tests.step.steps import ROUNDING, fast, gradient, loss_of
from tests.step.test_attach import attached, wrapped

N = 160  # more than any part that a model with convolutions was once cut into


def build(name: str, samples: int = N) -> tuple[nn.Module, Tensor, Tensor]:
    torch.manual_seed(0)
    model = CHANGING[name]().double().train()
    if name == "counting":
        model.average = model.average.double()
    return model, torch.randn(samples, *SHAPE).double(), torch.arange(samples) % 3


def held(model: nn.Module) -> dict:
    """Return what the model holds beside its parameters."""
    found = {k: v.clone() for k, v in model.state_dict().items()}
    for name in ("calls", "sizes", "log", "average", "features"):
        found[name] = getattr(model, name, None)
    return found


def assert_held(got: dict, want: dict) -> None:
    for name, value in want.items():
        if isinstance(value, Tensor):
            torch.testing.assert_close(got[name], value, rtol=1e-12, atol=1e-12)
        else:
            assert got[name] == value


OPTIONS = {
    "whole": {},
    "of a part": {"subsample": 0.25},
    "elsewhere": {"at": 0.5},
    "elsewhere, of a part": {"at": 0.5, "subsample": 0.25},
    "in bfloat16": {"precision": torch.bfloat16},
    "of a layer": {"layer": "0"},
}


# What else than `fast` there is hands its options on to it.
CALLS = [(name, options, fast) for name in CHANGING for options in OPTIONS]
CALLS += [(name, "whole", way) for name in CHANGING for way in (wrapped, attached)]
CALLS += [("dropout", o, way) for o in OPTIONS if o != "whole" for way in (wrapped, attached)]


@pytest.mark.parametrize(("name", "options", "way"), CALLS)
def test_as_one_call(name, options, way):
    model, x, y = build(name)
    given = dict(OPTIONS[options])
    if "precision" in given:
        model, x = model.float(), x.float()
    if "at" in given:
        given["at"] = given["at"] * x
    if "layer" in given and not isinstance(model, nn.Sequential):
        given["layer"] = "body.0"
    other = copy.deepcopy(model)
    torch.manual_seed(1)
    expected = other(x)
    torch.manual_seed(1)
    penalty = Frobenius("exact", subsample=given.pop("subsample", 1.0))
    logits, value = way(model, x, y, penalty, **given)
    assert relative_error(logits, expected) < 1e-12
    assert_held(held(model), held(other))
    loss_of(logits, value, y).backward()
    assert value > 0


@pytest.mark.parametrize("options", ["whole", "of a part", "elsewhere"])
@pytest.mark.parametrize("name", CHANGING)
def test_the_gradient_is_that_of_one_call(name, options):
    """Against plain autograd through one call (two where there are other points)."""
    model, x, y = build(name, 12)
    other = copy.deepcopy(model)
    chosen = torch.arange(12)
    torch.manual_seed(1)
    leaf = x.clone().requires_grad_()
    expected = other(leaf)
    if options == "elsewhere":
        leaf = (0.5 * x).requires_grad_()
        place = build(name, 12)[0]
        torch.manual_seed(1)
        outputs = torch.func.functional_call(place, dict(other.named_parameters()), leaf)
    else:
        outputs = expected
    if options == "of a part":
        chosen = torch.randperm(12, generator=torch.Generator().manual_seed(3))[:3]
    rows = [torch.autograd.grad(outputs[:, k].sum(), leaf, create_graph=True)[0] for k in range(3)]
    want = sum(row[chosen].square().sum() for row in rows) / len(chosen)
    torch.manual_seed(1)
    penalty = Frobenius("exact", subsample=len(chosen) / 12)
    more = {"at": 0.5 * x} if options == "elsewhere" else {}
    source = torch.Generator().manual_seed(3)
    logits, value = fast(model, x, y, penalty, generator=source, **more)
    assert relative_error(value, want) < ROUNDING
    reference = gradient(loss_of(expected, want, y), other)
    assert relative_error(gradient(loss_of(logits, value, y), model), reference) < ROUNDING


@pytest.mark.parametrize("name", ["spectral norm", "parametrized", "instance norm", "counting"])
def test_a_smaller_chunk_is_refused_and_leaves_the_model_as_it_was(name):
    model, x, y = build(name)
    before = held(copy.deepcopy(model))
    for more in ({}, {"at": x}):
        with pytest.raises(ValueError, match="chunk_size must be the whole batch, 160, or None"):
            fast(model, x, y, Frobenius(), chunk_size=64, **more)
        if not more:
            assert_held(held(model), before)
    fast(model.eval() if name != "counting" else model, x, y, Frobenius(), chunk_size=N)


@pytest.mark.parametrize("name", ["spectral norm", "parametrized", "instance norm"])
def test_in_eval_mode_nothing_changes_and_it_may_be_cut(name):
    model, x, y = build(name)
    model.eval()
    logits, _ = fast(model, x, y, Frobenius(), chunk_size=64)
    assert relative_error(logits, model(x)) < 1e-12


def test_running_statistics_through_fit():
    def trained(loss) -> nn.Module:
        model, x, y = build("instance norm", 300)
        model, x = model.float(), x.float() + 1
        fit(model, x, y, epochs=1, batch_size=150, lr=0.0, loss=loss)
        return model

    plain = trained(lambda model, x, y: F.cross_entropy(model(x), y))
    for penalty in (Frobenius(), Frobenius(subsample=0.25)):
        model = trained(Defence(penalty, 0.1))
        assert relative_error(model[1].running_mean, plain[1].running_mean) < 1e-6


def test_a_second_pass_draws_the_same_masks():
    """At x itself it gives the penalty of the very call."""
    for name in ("dropout", "depth", "spectral norm", "parametrized", "counting"):
        values = []
        for at in (False, True):
            model, x, y = build(name, 6)
            torch.manual_seed(2)
            more = {"at": x} if at else {}
            logits, value = fast(model, x, y, Frobenius("exact"), **more)
            values.append(torch.cat([value[None], gradient(loss_of(logits, value, y), model)]))
        assert relative_error(values[1], values[0]) < ROUNDING


def test_every_draw_of_the_penalty_is_new_after_a_second_pass():
    model, x, y = build("dropout", 4)
    model.eval()
    seen = {fast(model, x, y, Frobenius(), at=x)[1].item() for _ in range(5)}
    assert len(seen) == 5
    model.train()
    torch.manual_seed(0)
    masks = {tuple(fast(model, x, y, Frobenius(), at=x)[0].flatten().tolist()) for _ in range(5)}
    assert len(masks) == 5


def test_a_side_loss_of_the_first_pass_has_its_gradient():
    """Where the penalty has a pass of its own, the first one is the plain model's."""
    model, x, y = build("counting", 6)
    other = copy.deepcopy(model)
    logits, value = fast(model, x, y, Frobenius("exact"), at=x)
    got = gradient(loss_of(logits, value, y) + model.features.square().sum(), model)
    logits, value = fast(other, x, y, Frobenius("exact"), at=x)
    want = gradient(loss_of(logits, value, y), other)
    model, x, y = build("counting", 6)
    model(x)
    want += gradient(model.features.square().sum(), model)
    assert relative_error(got, want) < ROUNDING


def test_parameters_that_the_first_forward_makes():
    model = nn.Sequential(nn.Flatten(), nn.LazyLinear(3))
    with pytest.raises(
        ValueError,
        match=r"the weight of a LazyLinear is made by the first forward pass: call model",
    ):
        forward_with_penalty(model, torch.randn(4, 6))
    model(torch.randn(4, 6))
    assert forward_with_penalty(model, torch.randn(4, 6))[1] > 0


@pytest.mark.parametrize("share", [1.0, 0.5])
def test_the_masks_of_a_network_that_is_cut_are_those_of_one_call(share):
    """From the same seed, whichever samples are penalised."""
    wide = [nn.Conv2d(3, 32, 3, padding=1), nn.Dropout(0.3), nn.Flatten(), nn.Dropout(0.2)]
    model, x = nn.Sequential(*wide, nn.Linear(32 * 1024, 3)).train(), torch.randn(150, 3, 32, 32)
    torch.manual_seed(1)
    want = model(x)
    torch.manual_seed(1)
    logits, _ = forward_with_penalty(model, x, penalty=Frobenius(subsample=share))
    assert relative_error(logits, want) < 1e-5


@pytest.mark.parametrize("p", [0.0, 0.3])
def test_beside_dropout_every_step_chooses_a_part_of_its_own(p):
    """Also where neither the masks nor the penalty draw anything."""
    model, x = nn.Sequential(nn.Dropout(p), nn.Linear(6, 3), nn.Tanh()), torch.randn(12, 6)
    penalty, chosen = Frobenius("exact", subsample=0.25), set()
    for _ in range(8):
        leaf = x.clone().requires_grad_()
        _, value = forward_with_penalty(model, leaf, penalty=penalty)
        (g,) = torch.autograd.grad(value, leaf)
        chosen.add(tuple(g.abs().sum(1).nonzero()[:, 0].tolist()))
    assert len(chosen) > 4
    assert all(len(part) == 3 for part in chosen)
