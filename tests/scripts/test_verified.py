"""What benchmarks verify before they time is verified: wrong and NaN are found, and named."""

import math

import pytest
import torch
from torch import nn

import jacfast
from benchmarks import activations, attention, growth, harness, minimal_norm, sharing, step
from benchmarks.lengths import Attack
from benchmarks.rivals import batched
from jacfast.ops import activation_second
from jacfast.timing import rivals
from jacfast.timing.ours import ours

MODEL, X, Y = nn.Linear(4, 3), torch.rand(5, 4), torch.tensor([0, 1, 2, 0, 1])


def spoiled(run, value=math.nan):
    """Return the step with a gradient that holds `value`."""

    def step(model, *given):
        run(model, *given)
        model.bias.grad[0] = value

    return step


def broken(*_given):
    raise RuntimeError("no compiler here")


STEPS = {
    "plain": rivals.plain,
    "plain, compiled": rivals.plain,
    "one vector, autograd": rivals.one_vector,
    "JacobianReg, n = 1": rivals.jacobian_reg,
    "jacfast, n = 1": ours(jacfast.Frobenius()),
    "loop": rivals.loop,
    "batched": batched,
    "jacfast, exact": ours(jacfast.Frobenius("exact")),
}


@pytest.mark.parametrize("name", ["plain, compiled", "jacfast, n = 1", "jacfast, exact"])
@pytest.mark.parametrize("value", [math.nan, 7.0])
def test_a_step_that_is_wrong_is_refused(name, value):
    assert step.verify(STEPS, MODEL, X, Y) == {}
    steps = STEPS | {name: spoiled(STEPS[name], value)}
    with pytest.raises(RuntimeError, match=f"{name} must agree with"):
        step.verify(steps, MODEL, X, Y)


@pytest.mark.parametrize(
    ("name", "first", "other"),
    [
        ("loop", "batched", "jacfast, exact"),
        ("one vector, autograd", "JacobianReg, n = 1", "jacfast, n = 1"),
        ("plain, compiled", "loop", "batched"),
    ],
)
def test_a_step_that_does_not_run_is_listed_and_the_others_are_verified(name, first, other):
    steps = STEPS | {name: broken}
    assert step.verify(steps, MODEL, X, Y) == {name: "RuntimeError: no compiler here"}
    with pytest.raises(RuntimeError, match=f"{other} must agree with {first}"):
        step.verify(steps | {other: spoiled(STEPS[other])}, MODEL, X, Y)


def test_attention_that_is_nan_is_refused(monkeypatch):
    def tiles(*given):
        found = attention.math(*given)
        return (*found[:-1], found[-1] * math.nan)

    shape = (1, 1, 5)
    assert attention.errors(shape)["tiles"] < 1e-5
    monkeypatch.setitem(attention.ATTENTION, "tiles", tiles)
    with pytest.raises(RuntimeError, match="the error is nan"):
        attention.errors(shape)


@pytest.mark.parametrize("n", [1, 2, 3])
def test_growth_holds_every_contender_against_autograd(n):
    found = growth.contenders(n, 3)
    growth.verify(found, MODEL, X, Y)
    assert {"plain", "autograd by hand", "Frobenius"} <= found.keys()
    for name in found.keys() - {"plain"}:
        forward, penalty = found[name]

        def wrong(model, x, forward=forward):
            logits, value = forward(model, x)
            return logits, 1.1 * value

        with pytest.raises(RuntimeError, match=f"{name} must agree with plain autograd"):
            growth.verify({name: (wrong, penalty)}, MODEL, X, Y)


def test_images_that_are_nan_are_not_in_the_box():
    attacks = {
        "none": Attack(lambda _model, x, _y: x),
        "broken": Attack(lambda _model, x, _y: x * math.nan),
    }
    with pytest.raises(RuntimeError, match="broken left the box"):
        minimal_norm.distances(MODEL, X, Y, attacks, 2, (X, Y))


def test_an_attack_that_ends_in_an_assertion_has_found_nothing():
    def asserting(_model, x, _y):
        raise AssertionError

    attacks, y = {"a": Attack(asserting)}, MODEL(X).argmax(1)
    with pytest.warns(UserWarning, match="ended in an assertion"):
        far, _ = minimal_norm.distances(MODEL, X, y, attacks, 2, (X, Y))
    assert far["a"].isinf().all()


def test_a_rival_has_the_constants_that_are_best_on_other_images():
    """What fools nobody is the worst of all; what would be best on x is not looked for."""
    model = nn.Linear(1, 2)  # class 1 above one half
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[0.0], [1.0]]))
        model.bias.copy_(torch.tensor([0.5, 0.0]))
    x, y = torch.tensor([[0.4], [0.45]]), torch.tensor([0, 0])
    grid = ({"to": 0.5}, {"to": 0.9}, {"to": 0.6})
    jump = {"jump": Attack(lambda _model, x, _y, to: torch.full_like(x, to), grid)}
    far, costs = minimal_norm.distances(model, x, y, jump, 2, (x, y))
    assert costs["jump"]["chosen"] == {"to": 0.6}
    torch.testing.assert_close(far["jump"], torch.tensor([0.2, 0.15]).double())
    far, costs = minimal_norm.distances(model, x, y, jump, 2, (torch.tensor([[0.7]]), y[:1] + 1))
    assert costs["jump"]["chosen"] == {"to": 0.5}
    assert far["jump"].isinf().all()


@pytest.mark.parametrize("where", ["a", "b"])
def test_weights_that_are_nan_are_not_the_same(tmp_path, monkeypatch, where):
    monkeypatch.setattr(sharing, "IMAGES", 0)
    weights = {"a": torch.ones(2), "b": torch.ones(3)}
    for name, off in (("one", {}), ("two", {where: weights[where] * math.nan})):
        (tmp_path / name).mkdir()
        torch.save(weights | off, tmp_path / name / "weights.pt")
    sharing.verify(tmp_path / "one", tmp_path / "one")
    with pytest.raises(AssertionError, match="nan"):
        sharing.verify(tmp_path / "one", tmp_path / "two")


@pytest.mark.parametrize("kind", activations.KINDS)
@pytest.mark.parametrize("which", [0, 1])
def test_both_second_derivatives_of_an_activation_are_verified(monkeypatch, kind, which):
    x, g, u = torch.randn(3, 50, 4)
    runs = activations.contenders(kind, x, g, u)
    ours, stock = (runs[f"{kind}, second{whose}"][0]() for whose in ("", ", PyTorch"))
    torch.testing.assert_close(ours, stock, rtol=1e-5, atol=1e-5)

    def wrong(*given):
        found = [*activation_second(*given)]
        found[which] = 1.01 * found[which]
        return tuple(found)

    monkeypatch.setattr(activations, "activation_second", wrong)
    with pytest.raises(AssertionError, match="Tensor-likes are not close"):
        activations.contenders(kind, x, g, u)


def test_the_floor_of_a_step_is_counted_layer_by_layer():
    """Forward, input gradient but for the first, weight gradient; three more for the penalty."""
    layers = nn.Conv2d(2, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(3 * 4 * 4, 5)
    conv, linear = (3 * 4 * 4) * (2 * 3 * 3), 5 * 48
    plain = 2 * conv + 3 * linear
    want = (plain + 3 * (conv + linear)) / plain
    assert step.floor(nn.Sequential(*layers), torch.rand(7, 2, 6, 6)) == pytest.approx(want)


@pytest.mark.parametrize(
    ("changed", "commit"), [("", "abc"), (" M jacfast/vjp.py", "abc-dirty"), ("unknown", "abc")]
)
def test_the_commit_of_figures_says_whether_files_were_changed(monkeypatch, changed, commit):
    said = {"status": changed, "describe": "abc"}
    monkeypatch.setattr(harness, "_git", lambda command, *_: said[command])
    assert harness.environment()["commit"] == commit
