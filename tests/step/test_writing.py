"""Parameters that the model writes to when it is called move as by one call, by whatever step."""

import copy
import itertools

import pytest
import torch
from torch import Tensor, nn

from jacfast import Frobenius, forward_with_penalty, penalised
from tests.nets import relative_error
from tests.step.steps import LAM, ROUNDING
from tests.step.writing import WRITING, in_place, through_data

ALL = [name for name in WRITING if name != "large momentum, in place"]  # which is refused
OPTIONS = {
    "elsewhere": {"at": True},
    "frozen": {"batch_norm": "frozen"},
    "frozen elsewhere": {"at": True, "batch_norm": "frozen"},
    "in parts": {"at": True, "subsample": 0.5},
    "in bfloat16": {"precision": torch.bfloat16},
}


def build(name: str, train: bool) -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    model = WRITING[name]().double()
    for norm in norms(model):
        norm.train(train)
    return model, torch.randn(8, 6).double()


def by_function(model, x, penalty, **options):
    return forward_with_penalty(model, x, penalty=penalty, **options)


def by_context(model, x, penalty, **options):
    with penalised(model, penalty=penalty, **options) as held:
        logits = model(x)
    return logits, held.penalty


def gradients(model: nn.Module, loss: Tensor) -> dict[str, Tensor]:
    named = {name: p for name, p in model.named_parameters() if p.requires_grad}
    found = torch.autograd.grad(loss, list(named.values()), materialize_grads=True)
    return dict(zip(named, found, strict=True))


def norms(model: nn.Module) -> list[nn.Module]:
    return [module for module in model.modules() if isinstance(module, nn.BatchNorm1d)]


def by_hand(model, x, at, frozen=False, rows=slice(None), once=False):
    """Return logits, penalty, gradients, and the model after one plain call.

    The penalty is of a copy that begins where the model does; if `once`, of the very call.
    """
    first, other = copy.deepcopy(model), copy.deepcopy(model)
    leaf = (x if once else at).clone().requires_grad_()
    logits = outputs = first(leaf if once else x)
    if not once:
        if frozen:
            for one, left in zip(norms(other), norms(first), strict=True):
                one.load_state_dict(dict(one.named_parameters()) | dict(left.named_buffers()))
                one.eval()
        outputs = other(leaf)
    squares = torch.zeros(len(x), dtype=x.dtype)
    for k in range(3):
        (g,) = torch.autograd.grad(outputs[:, k].sum(), leaf, create_graph=True)
        squares = squares + g.square().sum(1)
    value = squares[rows].mean()
    if once:
        return logits, value, gradients(first, logits.square().sum() + LAM * value), first
    found, more = gradients(first, logits.square().sum()), gradients(other, LAM * value)
    return logits, value, {name: found[name] + more[name] for name in found}, first


def assert_step(got, want, rounding=ROUNDING) -> None:
    """Compare logits, penalty, gradients and the model after the step."""
    logits, value, model = got
    found = gradients(model, logits.square().sum() + LAM * value)
    assert relative_error(logits, want[0]) < ROUNDING
    assert relative_error(value, want[1]) < rounding
    for name, gradient in want[2].items():
        assert relative_error(found[name], gradient) < rounding, name
    for (name, one), other in zip(
        model.state_dict().items(), want[3].state_dict().values(), strict=True
    ):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12, msg=name)


@pytest.mark.parametrize("compiled", [None, "traced"])
@pytest.mark.parametrize("way", [by_function, by_context])
@pytest.mark.parametrize(
    ("name", "options"),
    # a part of the batch would set other first values
    [pair for pair in itertools.product(ALL, OPTIONS) if pair != ("first values", "in parts")],
)
@pytest.mark.filterwarnings("ignore:.*runs eager")
def test_a_second_pass(name, options, way, compiled):
    given, rows, rounding = dict(OPTIONS[options]), slice(None), ROUNDING
    frozen, share = "batch_norm" in given, given.pop("subsample", 1.0)
    model, x = build(name, train=frozen)
    before = {name: id(p) for name, p in model.named_parameters()}
    at = 0.5 * x + 1 if given.get("at") else x
    if "precision" in given:
        model, x, at, rounding = model.float(), x.float(), at.float(), 0.1
    if "at" in given:
        given["at"] = at
    if share < 1:
        rows = torch.randperm(8, generator=torch.Generator().manual_seed(3))[:4]
        given["generator"] = torch.Generator().manual_seed(3)
    want = by_hand(model, x, at, frozen, rows)
    penalty = Frobenius("exact", subsample=share)
    logits, value = way(model, x, penalty, compiled=compiled, **given)
    assert {name: id(p) for name, p in model.named_parameters()} == before
    assert_step((logits, value, model), want, rounding)


@pytest.mark.parametrize("name", ALL)
def test_second_passes_go_on(name):
    """Each begins where the first pass of its own step did, and gradients reach ``.grad``."""
    model, x = build(name, train=True)
    for at in (x + 1, x / 2, x):
        want = by_hand(model, x, at, frozen=True)
        logits, value = forward_with_penalty(
            model, x, penalty=Frobenius("exact"), at=at, batch_norm="frozen"
        )
        model.zero_grad()
        (logits.square().sum() + LAM * value).backward()
        for key, gradient in want[2].items():
            own = model.get_parameter(key).grad
            assert relative_error(torch.zeros_like(gradient) if own is None else own, gradient) < (
                ROUNDING
            )
        assert all(map(torch.equal, model.state_dict().values(), want[3].state_dict().values()))


@pytest.mark.parametrize("way", [by_function, by_context])
@pytest.mark.parametrize("compiled", [None, "traced"])
@pytest.mark.parametrize("name", WRITING)
@pytest.mark.filterwarnings("ignore:.*runs eager")
def test_one_pass(name, compiled, way):
    model, x = build(name, train=False)
    for _ in range(2):
        want = by_hand(model, x, x, once=True)
        assert_step((*way(model, x, Frobenius("exact"), compiled=compiled), model), want)


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("more", ["alone", "elsewhere"])
def test_chunks_are_refused_and_leave_the_model_as_it_was(name, more):
    model, x = build(name, train=False)
    before = copy.deepcopy(model.state_dict())
    first = copy.deepcopy(model)
    first(x)
    given = {"at": x} if more == "elsewhere" else {}
    with pytest.raises(ValueError, match=r"chunk_size must be the whole batch, 8, .* that changes"):
        forward_with_penalty(model, x, chunk_size=2, **given)
    left = first.state_dict() if given else before  # by the model's own call
    assert all(map(torch.equal, model.state_dict().values(), left.values()))


def test_large_parameters_written_in_place_are_refused_in_words():
    model, x = build("large momentum, in place", train=False)
    once = copy.deepcopy(model)
    once(x)
    with pytest.raises(ValueError, match=r"a second pass .* to a parameter of shape \[800, 6\]"):
        forward_with_penalty(model, x, at=x)
    assert all(map(torch.equal, model.state_dict().values(), once.state_dict().values()))
    with pytest.raises(ValueError, match=r"chunk_size must .* by (weight|bias) of a Linear \(once"):
        forward_with_penalty(model, x, chunk_size=2)
    forward_with_penalty(model, x)  # one pass over the whole batch asks for nothing


class Farthest(nn.Module):
    """A bound that moves only where samples pass it."""

    def __init__(self, write, size: int = 3) -> None:
        super().__init__()
        self.layer, self.write = nn.Linear(6, 3), write
        self.bound = nn.Parameter(torch.ones(size), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        if x.abs().max() > self.bound[0]:
            self.write(self.bound, nn.Parameter(x.detach().abs().max().expand_as(self.bound)))
        return self.layer(x).tanh() * self.bound[:3]


@pytest.mark.parametrize("write", [in_place, through_data])
def test_what_a_second_pass_alone_writes(write):
    model, x = Farthest(write).double(), torch.rand(4, 6).double()
    want = by_hand(model, x, 5 + x)
    got = forward_with_penalty(model, x, penalty=Frobenius("exact"), at=5 + x)
    assert model.bound.tolist() == [1, 1, 1]
    assert relative_error(got[1], want[1]) < ROUNDING
    large = Farthest(in_place, 5000).double()
    with pytest.raises(ValueError, match=r"a second pass .* to a parameter of shape \[5000\]"):
        forward_with_penalty(large, x, at=5 + x)


def test_parameters_that_something_else_has_kept_get_their_gradients():
    """A closure goes past what stands for its parameter in a second pass."""
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3)).double(), torch.rand(4, 6)
    weight, x = model[2].weight, x.double()
    model[2].forward = lambda h: nn.functional.linear(h, weight)
    plain = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3, bias=False)).double()
    plain.load_state_dict({k: v for k, v in model.state_dict().items() if k != "2.bias"})
    want = by_hand(plain, x, x / 2)
    for more in ({}, {"chunk_size": 2}):
        got = forward_with_penalty(model, x, penalty=Frobenius("exact"), at=x / 2, **more)
        found = gradients(model, got[0].square().sum() + LAM * got[1])
        for name, gradient in want[2].items():
            assert relative_error(found[name], gradient) < ROUNDING


def test_parameters_that_stay_have_no_new_version():
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3)), torch.randn(4, 6)
    versions = [p._version for p in model.parameters()]
    plain = model(x).square().sum()
    forward_with_penalty(model, x, at=x / 2)
    forward_with_penalty(model, x, chunk_size=2)
    assert [p._version for p in model.parameters()] == versions
    plain.backward()
