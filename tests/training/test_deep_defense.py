"""deep_defense_penalty against an unrolled DeepFool, numerical derivatives and results by hand."""

import copy
import math

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call

import jacfast.vjp
from jacfast import deep_defense_penalty, deepfool
from tests.nets import RTOL, build, relative_error
from tests.training.unrolled import unrolled_penalty

D = 0.5  # untrained networks have distant boundaries: with d = 5, exp(d rho) is clamped
NETS = ("mlp", "smooth_mlp", "cnn", "conv_batch_norm", "layer_norm_gelu", "attention")


def problem(
    name: str, samples: int = 8, dtype=torch.float64, rank: int = 1
) -> tuple[nn.Module, Tensor, Tensor]:
    """Return a network, a batch, and labels of which every third is the class of that rank."""
    model, x = build(name, samples, dtype)
    z = build(name, samples)[0](x.double())
    order = z.argsort(dim=1, descending=True)
    wrong = torch.arange(samples) % 3 == 0
    return model, x, torch.where(wrong, order[:, rank], order[:, 0])


def gradients(value: Tensor, model: nn.Module) -> list[Tensor]:
    return list(torch.autograd.grad(value, list(model.parameters()), materialize_grads=True))


@pytest.mark.parametrize("linked", [True, False], ids=["linked", "apart"])
@pytest.mark.parametrize("name", NETS)
def test_value_and_gradient_are_those_of_the_unrolled_attack(name, linked):
    model, x, y = problem(name, rank=2)
    want, steps = unrolled_penalty(model, x, y, d=D, linked=linked)
    assert max(steps) > 1  # so that steps can be linked
    got = deep_defense_penalty(model, x, y, d=D, linked=linked)
    assert relative_error(got, want) < 1e-12
    for a, b in zip(gradients(got, model), gradients(want, model), strict=True):
        assert relative_error(a, b) < 1e-8


def test_linked_steps_have_another_gradient():
    model, x, y = problem("smooth_mlp")
    linked, apart = (deep_defense_penalty(model, x, y, d=D, linked=flag) for flag in (True, False))
    assert torch.equal(linked, apart)
    pairs = zip(gradients(linked, model), gradients(apart, model), strict=True)
    assert max(relative_error(a, b) for a, b in pairs) > 1e-3


@pytest.mark.parametrize(
    "options",
    [
        {"steps": 1},
        {"steps": 2, "overshoot": 0.0},
        {"overshoot": 0.3},
        {"candidates": 2},
        {"candidates": 3, "c": 3.0, "d": 0.2},
    ],
    ids=str,
)
def test_options(options):
    model, x, y = problem("smooth_mlp", rank=2)
    options = {"d": D} | options
    want, _ = unrolled_penalty(model, x, y, **options)
    got = deep_defense_penalty(model, x, y, **options)
    assert relative_error(got, want) < 1e-12
    for a, b in zip(gradients(got, model), gradients(want, model), strict=True):
        assert relative_error(a, b) < 1e-8


@pytest.mark.parametrize("name", ["mlp", "smooth_mlp", "cnn"])
def test_differentiated_numerically(name):
    model, x, y = problem(name, samples=3)
    names = [n for n, _ in model.named_parameters()]

    def value(*params: Tensor) -> Tensor:
        held = dict(zip(names, params, strict=True))
        return deep_defense_penalty(lambda at: functional_call(model, held, at), x, y, d=D)

    leaves = tuple(p.detach().clone().requires_grad_() for p in model.parameters())
    assert torch.autograd.gradcheck(value, leaves, fast_mode=True)  # in random directions


def two_classes() -> nn.Linear:
    """Return z = (x_0, x_1): the boundary x_0 = x_1 is |x_0 - x_1| / sqrt(2) away."""
    model = nn.Linear(2, 2, bias=False, dtype=torch.float64)
    model.weight.data = torch.eye(2, dtype=torch.float64)
    return model


def test_by_hand():
    """rho = 1.02 |f| / (||w|| ||x||): 1.02 / (5 sqrt 2) and 7 * 1.02 / (13 sqrt 2)."""
    x, y = torch.tensor([[3.0, 4.0], [5.0, 12.0]], dtype=torch.float64), torch.tensor([1, 0])
    right, wrong = 1.02 / (5 * 2**0.5), 7 * 1.02 / (13 * 2**0.5)
    value = deep_defense_penalty(two_classes(), x, y)
    assert value.item() == pytest.approx((math.exp(-25 * right) + math.exp(5 * wrong)) / 2)


def test_rho_is_that_of_deepfool():
    """Also for three classes, where a wrong sample may pass through a third one."""
    model, x, y = problem("smooth_mlp", 30, rank=2)
    same = {"linearize": "plain", "steps": 5}
    away, back = deepfool(model, x, y, **same), deepfool(model, x, target=y, **same)
    right = model(x).argmax(dim=1) == y
    assert 0 < right.sum() < 30
    size = x.norm(dim=1)
    want = torch.where(right, torch.exp(-away.norm / size), torch.exp(2 * back.norm / size)).mean()
    assert relative_error(deep_defense_penalty(model, x, y, c=1, d=2), want) < 1e-12


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_dtypes(dtype):
    model, x, y = problem("cnn", dtype=dtype)
    wide = copy.deepcopy(model).double()
    got, want = deep_defense_penalty(model, x, y), deep_defense_penalty(wide, x.double(), y)
    assert got.dtype == torch.float32
    assert relative_error(got, want) < 3 * RTOL[dtype]
    grads, wants = (torch.cat([g.flatten().double() for g in gradients(v, m)])
                    for v, m in ((got, model), (want, wide)))  # fmt: skip
    assert relative_error(grads, wants) < 10 * RTOL[dtype]


def test_autocast():
    model, x, y = problem("mlp", dtype=torch.float32)
    want = deep_defense_penalty(model, x, y)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = deep_defense_penalty(model, x, y)
    assert got.dtype == torch.float32
    assert relative_error(got, want) < 3 * RTOL[torch.bfloat16]
    assert all(g.isfinite().all() for g in gradients(got, model))


def test_compiled_models_run_as_they_were():
    model, x, y = problem("smooth_mlp")
    want = deep_defense_penalty(model, x, y, d=D)
    torch._dynamo.reset()
    compiled = torch.compile(model, backend="aot_eager")
    got = deep_defense_penalty(compiled, x, y, d=D)
    for a, b in zip(gradients(got, model), gradients(want, model), strict=True):
        assert torch.equal(a, b)
    torch._dynamo.reset()


def test_layouts_and_one_sample():
    model, x, y = problem("cnn")
    want = deep_defense_penalty(model, x, y)
    for view in (x.contiguous(memory_format=torch.channels_last), x.mT.contiguous().mT):
        assert relative_error(deep_defense_penalty(model, view, y), want) < 1e-12
    alone = [deep_defense_penalty(model, x[i : i + 1], y[i : i + 1]) for i in range(len(x))]
    assert relative_error(torch.stack(alone).mean(), want) < 1e-12


class Walled(nn.Module):
    """Logits (w x_0, w x_1), but constant ones, so no gradient, where x_1 < 0."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = two_classes()

    def forward(self, x: Tensor) -> Tensor:
        flat = torch.tensor([1.0, 0.0], dtype=x.dtype)
        return torch.where(x[:, 1:] < 0, flat, self.linear(x))


@pytest.fixture
def products(monkeypatch) -> list[tuple[bool, int]]:
    """Note of every vector-Jacobian product whether it has a graph, and of how many samples."""
    calls, grad = [], jacfast.vjp.grad

    def counting(outputs, x, cotangent, create_graph, batched=False, **options) -> Tensor:
        calls.extend([(create_graph, len(x))] * (len(cotangent) if batched else 1))
        return grad(outputs, x, cotangent, create_graph, batched, **options)

    monkeypatch.setattr(jacfast.vjp, "grad", counting)
    return calls


def test_a_sample_without_a_gradient_counts_with_no_perturbation(products):
    model = Walled()
    x = torch.tensor([[3.0, 4.0], [1.0, -1.0]], dtype=torch.float64)
    value = deep_defense_penalty(model, x, torch.tensor([1, 0]))
    assert products == [(False, 2), (True, 2)]  # it is not tried again
    alone = deep_defense_penalty(model, x[:1], torch.tensor([1]))
    assert value.item() == pytest.approx((alone.item() + 1) / 2)
    (grad,), (half,) = gradients(value, model), gradients(alone, model)
    torch.testing.assert_close(grad, half / 2)


def test_a_sample_with_an_infinite_gradient_counts_with_no_perturbation():
    def model(x: Tensor) -> Tensor:
        return torch.stack([x[:, 0].sqrt(), x[:, 1]], dim=1)

    assert deep_defense_penalty(model, torch.tensor([[0.0, 1.0]]), torch.tensor([1])).item() == 1


def test_only_candidates_are_gone_to():
    """The one candidate, class 2, has the gradient of class 1; class 0 is in reach, but none."""

    def model(x: Tensor) -> Tensor:
        return torch.stack([x[:, 0], x[:, 1], x[:, 1] - 1], dim=1)

    x, y = torch.tensor([[0.1, 5.0]]), torch.tensor([1])
    assert deep_defense_penalty(model, x, y, candidates=2).item() == 1
    assert deep_defense_penalty(model, x, y, candidates=3).item() < 1


def test_gradients_whose_squares_vanish_are_not_usable():
    value = deep_defense_penalty(lambda x: 1e-25 * x, torch.tensor([[3.0, 4.0]]), torch.tensor([1]))
    assert value.item() == 1


def test_a_tie_has_no_derivative_and_no_nan():
    x, model = torch.tensor([[2.0, 2.0]], dtype=torch.float64), two_classes()
    value = deep_defense_penalty(model, x, torch.tensor([0]))
    assert value.item() == 1
    assert gradients(value, model)[0].abs().max() == 0


@pytest.mark.parametrize("label", [0, 1])
@pytest.mark.parametrize("at", [0, 1])
def test_a_sample_that_meets_bad_logits_keeps_the_r_it_had_reached(at, label):
    """By hand: z = (0, 0.2 - exp(-t)), t = x - 1, is left along x; a step from t = 0 is 0.8 long.

    The class of the first NaN is none, whichever that is.
    """

    def model(x):
        z = torch.cat([0 * x, 0.2 - torch.exp(1 - x)], dim=1)
        z = z if label == 0 else z.flip(1)
        bad = (x > 2) & (torch.arange(2) == at)  # at 1.5 times r, and not at r
        return torch.where(bad, math.nan, z)

    x = torch.ones(1, 1, dtype=torch.float64)
    for y in (label, 1 - label):
        got = deep_defense_penalty(model, x, torch.tensor([y]), c=1.0, d=1.0, overshoot=0.5)
        assert got.item() == pytest.approx(math.exp(-1.2 if y == label else 1.2))


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_bad_logits_make_it_nan(bad):
    def model(x: Tensor) -> Tensor:
        return torch.where(x[:, :1] > 4, bad, 1.0 * x)

    x = torch.tensor([[3.0, 4.0], [5.0, 12.0]])
    assert deep_defense_penalty(model, x[:1], torch.tensor([1])).isfinite()
    assert deep_defense_penalty(model, x, torch.tensor([1, 1])).isnan()


def test_the_term_of_a_hopeless_sample_is_clamped():
    """||x|| is small beside the distance to the boundary: exp(5 rho) would be infinite."""
    model = nn.Linear(2, 2, dtype=torch.float64)
    model.weight.data, model.bias.data = torch.eye(2).double(), torch.tensor([0.0, 1e5]).double()
    x = torch.tensor([[1.0, 1.0]], dtype=torch.float64)
    value = deep_defense_penalty(model, x, torch.tensor([0]))
    assert value.item() == pytest.approx(50)
    assert all(g.abs().max() == 0 for g in gradients(value, model))
    right = deep_defense_penalty(model, x, torch.tensor([1]))
    assert right.item() == 0
    assert all(g.isfinite().all() for g in gradients(right, model))


def with_modes() -> nn.Sequential:
    """Return a network in training mode whose batch-norm and dropout have two meanings."""
    torch.manual_seed(0)
    norm = nn.BatchNorm1d(16)
    nn.init.uniform_(norm.running_var, 0.5, 2.0)
    model = nn.Sequential(nn.Linear(6, 16), norm, nn.ReLU(), nn.Dropout(), nn.Linear(16, 5))
    model[4].weight.requires_grad_(False)
    return model.double().train()


def test_it_is_evaluated_in_eval_mode_and_left_as_it_was():
    model, x = with_modes(), build("mlp", 8)[1].requires_grad_()
    y = torch.arange(8) % 5
    before = copy.deepcopy(model.state_dict())
    state = torch.get_rng_state()
    value = deep_defense_penalty(model, x, y)
    assert all(module.training for module in model.modules())
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(a, before[name]) for name, a in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())
    value.backward()
    assert x.grad is None
    assert [p.grad is None for p in model.parameters()] == [False] * 4 + [True, False]
    still = copy.deepcopy(model).eval()
    assert torch.equal(deep_defense_penalty(still, x, y), value)


def test_modes_come_back_after_an_error():
    model = with_modes()
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        deep_defense_penalty(model, torch.randn(2, 7).double(), torch.tensor([0, 1]))
    assert all(module.training for module in model.modules())


def test_without_gradients_it_is_a_plain_number():
    model, x, y = problem("smooth_mlp")
    want = deep_defense_penalty(model, x, y)
    with torch.no_grad():
        got = deep_defense_penalty(model, x, y)
    assert torch.equal(got, want)
    assert want.requires_grad
    assert not got.requires_grad


def test_what_it_costs(products):
    """K - 1 rows without a graph and one with it per step, and only for samples that go on."""
    model, x, y = problem("smooth_mlp", 40)  # more samples than are batched over rows
    _, steps = unrolled_penalty(model, x, y)
    deep_defense_penalty(model, x, y)
    left = [sum(s > number for s in steps) for number in range(max(steps))]
    assert len(set(left)) > 1
    assert [n for graph, n in products if graph] == left
    assert [n for graph, n in products if not graph] == [n for n in left for _ in range(4)]


M, X, Y = two_classes(), torch.rand(3, 2, dtype=torch.float64) + 0.1, torch.tensor([0, 1, 0])


@pytest.mark.parametrize(
    ("arguments", "options", "error", "words"),
    [
        ((M, X.long(), Y), {}, TypeError, "x must be floating point"),
        ((M, X[0], Y), {}, ValueError, "x must be a non-empty batch"),
        ((M, 0 * X, Y), {}, ValueError, "x must have no all-zero sample"),
        ((M, X, Y.int()), {}, TypeError, "y must be an int64 tensor"),
        ((M, X, Y[:2]), {}, ValueError, r"y must have shape \[N\] = \[3\]; got \[2\]"),
        ((M, X, Y + 1), {}, ValueError, r"y must lie in 0 .. K - 1 = 1; got 1 .. 2"),
        ((nn.Linear(2, 1).double(), X, Y), {}, ValueError, "at least 2 logits"),
        ((M, X, Y), {"c": 0.0}, ValueError, "c must be finite and > 0; got 0.0"),
        ((M, X, Y), {"d": math.inf}, ValueError, "d must be finite and > 0; got inf"),
        ((M, X, Y), {"steps": 0}, ValueError, "steps must be >= 1; got 0"),
        ((M, X, Y), {"overshoot": -0.1}, ValueError, "overshoot must be finite and >= 0"),
        ((M, X, Y), {"candidates": 1}, ValueError, "candidates must be >= 2"),
        ((lambda x: x.detach(), X, Y), {}, ValueError, "outputs do not depend on x"),
        (
            (nn.BatchNorm1d(2, track_running_stats=False).double(), X, Y),
            {},
            RuntimeError,
            "batch-norm without running statistics .* take another normalisation$",
        ),
    ],
)
def test_errors(arguments, options, error, words):
    with pytest.raises(error, match=words):
        deep_defense_penalty(*arguments, **options)


def test_under_inference_mode_and_torch_func():
    with torch.inference_mode(), pytest.raises(RuntimeError, match="which forbids gradients"):
        deep_defense_penalty(M, X, Y)
    with pytest.raises(RuntimeError, match="deep_defense_penalty must be called outside"):
        torch.func.grad(lambda x: deep_defense_penalty(M, x, Y))(X)
