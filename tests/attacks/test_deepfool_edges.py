"""deepfool where it is awkward: ties, no gradient, NaN, training mode, bad arguments."""

import copy
import re
import warnings

import pytest
import torch
from torch import Tensor, nn

from jacfast import DeepFoolResult, deepfool
from jacfast.attacks import loop
from jacfast.attacks.masked import EVERY
from tests.nets import build, draw

pytestmark = pytest.mark.usefixtures("either_loop")


def test_exact_tie_at_x_is_crossed():
    """x lies on the boundary: r is two roundings of ||x|| long, but for its own, and it crosses."""
    w = draw(2, 3)
    x = torch.tensor([[1.0, 2.0, 2.0]], dtype=torch.float64)  # norm 3

    def model(x: Tensor) -> Tensor:
        shared = (x - x.new_tensor([1.0, 2.0, 2.0])) @ w.T
        return torch.cat([shared, shared.sum(1, keepdim=True) - 9], dim=1)

    result = deepfool(model, x)
    eps = torch.finfo(torch.float64).eps
    assert bool(result.success)
    assert (int(result.before), int(result.label), int(result.iterations)) == (0, 1, 1)
    assert float(result.norm) == pytest.approx(1.02 * 2 * 3 * eps, rel=0.2, abs=0)


def test_a_step_is_lengthened_by_what_its_own_image_resolves():
    """The floor is enough for the second image; of the first it is less than a rounding."""
    model = lambda x: torch.cat([x[:, :1] - x[:, 1:], 0 * x[:, :1]], dim=1)  # noqa: E731
    x = torch.tensor([[1e6, 1e6], [0.6, 0.5]])
    found = deepfool(model, x, floor=1e-4, clip=(-1e9, 1e9))
    assert found.success.tolist() == [True, True]
    assert found.iterations.tolist() == [1, 1]


def test_equal_distances_go_to_the_lowest_class():
    model = nn.Linear(4, 4, bias=False).double()
    model.weight.data = torch.eye(4).double()
    x = torch.tensor([[0.0, 3, 0, 0], [1, 1, 1, 9]], dtype=torch.float64)
    result = deepfool(model, x, steps=1, overshoot=0.5)
    direction = torch.tensor([[1.0, -1, 0, 0], [1, 0, 0, -1]], dtype=torch.float64)
    length = 1.5 * torch.tensor([[3.0], [8.0]], dtype=torch.float64)
    torch.testing.assert_close(result.r, direction * length / 2)


def test_equal_distances_go_to_the_lowest_class_also_if_it_is_less_likely():
    model = nn.Linear(2, 3).double()
    model.weight.data = torch.tensor([[0.0, 0], [2, 0], [0, 1]]).double()
    model.bias.data = torch.tensor([0.0, -2, -1]).double()  # both boundaries are one away
    result = deepfool(model, torch.zeros(1, 2).double(), steps=1)
    torch.testing.assert_close(result.r, torch.tensor([[1.02, 0.0]]).double())


def constant(x: Tensor) -> Tensor:
    return 0 * x[:, :3] + x.new_tensor([1.0, 3.0, 2.0])


def test_zero_gradient_stalls(either_loop):
    result = deepfool(constant, draw(4, 6))
    assert bool(result.stalled.all())
    assert not bool(result.success.any())
    assert not bool(result.r.any())
    assert not bool(result.iterations.any())
    looks = EVERY if either_loop == "gpu" else 1
    assert bool((result.vjps == 2 * looks).all())


def test_logits_without_any_path_to_x_are_refused():
    with pytest.raises(ValueError, match=r"^the model's outputs do not depend on x: "):
        deepfool(lambda x: x.new_tensor([1.0, 3.0]).expand(len(x), 2), draw(4, 6))


def poisoned(model: nn.Module, marker: float, value: float):
    """Return the model with one logit of the sample that starts with `marker` replaced."""

    def call(x: Tensor) -> Tensor:
        logits = model(x)
        hit = (x[:, :1] - marker).abs() < 0.5
        first = torch.arange(logits.shape[1]) == 0
        return torch.where(hit & first, logits.new_tensor(value), logits)

    return call


@pytest.mark.parametrize("batch_size", [None, 1])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_one_bad_sample_stalls_alone(value, batch_size):
    model, x = build("smooth_mlp", samples=6)
    x[2, 0] = 50.0
    others = [0, 1, 3, 4, 5]
    want = deepfool(model, x[others])
    result = deepfool(poisoned(model, 50.0, value), x, batch_size=batch_size)
    torch.testing.assert_close(result.r[others], want.r)
    assert torch.equal(result.iterations[others], want.iterations)
    assert result.stalled.tolist() == [False, False, True, False, False, False]
    assert result.success.tolist() == [True, True, False, True, True, True]
    assert bool(result.adversarial.isfinite().all())
    assert not bool(result.r[2].any())


def test_nan_after_the_first_step_keeps_the_last_finite_point():
    model, x = build("smooth_mlp", samples=5)

    def call(x_: Tensor) -> Tensor:
        logits = model(x_)
        moved = (x_ - x[3]).norm(dim=1, keepdim=True)
        return torch.where((moved > 0) & (moved < 1), torch.nan, logits)

    result = deepfool(call, x)
    assert bool(result.stalled[3])
    assert not bool(result.success[3])
    assert bool(result.adversarial.isfinite().all())
    assert int(result.iterations[3]) == 1
    assert int(result.success.sum()) == 4


@pytest.mark.parametrize("masked", [(1,), (1, 2), (0, 1)])
def test_masked_classes_are_never_candidates(masked):
    """A logit of minus infinity takes its class out: as if the model had only the others."""
    model = nn.Linear(5, 4).double()
    model.weight.data, model.bias.data = draw(4, 5), draw(4, seed=2)
    mask = torch.zeros(4, dtype=torch.bool).index_fill(0, torch.tensor(masked), True)
    kept, x = (~mask).nonzero().flatten(), draw(8, 5, seed=3)
    want = deepfool(lambda x: model(x)[:, kept], x)
    result = deepfool(lambda x: torch.where(mask, -torch.inf, model(x)), x)
    torch.testing.assert_close(result.r, want.r)
    assert torch.equal(result.label, kept[want.label])
    assert bool(result.success.all())


@pytest.mark.parametrize("batch_size", [None, 3])
def test_given_labels(batch_size):
    """Samples of another class than y are fooled already; the others leave y."""
    model, x = build("smooth_mlp", samples=8)
    predicted = model(x).argmax(dim=1)
    y = torch.where(torch.arange(8) % 2 == 0, predicted, (predicted + 1) % 5)
    free, result = deepfool(model, x), deepfool(model, x, y, batch_size=batch_size)
    torch.testing.assert_close(result.r[0::2], free.r[0::2])
    assert torch.equal(result.before, y)
    assert not bool(result.r[1::2].any())
    assert torch.equal(result.adversarial[1::2], x[1::2])
    assert not bool(result.iterations[1::2].any())
    assert bool(result.success.all())
    assert torch.equal(result.label[1::2], predicted[1::2])


def test_box_that_cannot_be_left_is_reported_as_no_success():
    """The boundary x = 2 lies outside the box [0, 1]."""
    result = deepfool(lambda x: torch.cat([x, 4 - x], dim=1), draw(3, 1).sigmoid(), clip=(0, 1))
    assert not bool(result.success.any())
    assert bool((result.adversarial == 1).all())
    assert bool((result.iterations == 50).all())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(dtype):
    model, x = build("smooth_mlp", samples=16, dtype=dtype)
    result = deepfool(model, x)
    assert result.adversarial.dtype == dtype
    assert bool(result.success.all())
    want = deepfool(model.float(), x.float()).norm.mean()
    assert float(result.norm.float().mean()) == pytest.approx(float(want), rel=0.1)


@pytest.mark.parametrize("at_once", [3, 128])
@pytest.mark.parametrize("case", ["autocast", "float64 x", "float32 logits"])
def test_logits_of_another_dtype_than_x(case, at_once, monkeypatch):
    monkeypatch.setattr(loop, "AT_ONCE", at_once)
    model, x = build("smooth_mlp", samples=8, dtype=torch.float32)
    want = deepfool(model, x).norm.mean()
    if case == "autocast":
        with torch.autocast("cpu", torch.bfloat16):
            result = deepfool(model, x)
    elif case == "float64 x":
        result = deepfool(lambda x: model(x.float()), x.double())
    else:
        model.bfloat16()
        result = deepfool(lambda x: model(x).float(), x.bfloat16())
    assert int(result.success.sum()) >= 7
    assert float(result.norm.double().mean()) == pytest.approx(float(want), rel=0.1)


def training_model() -> tuple[nn.Sequential, Tensor]:
    model, x = build("conv_batch_norm")
    model = nn.Sequential(*model[:3], nn.Dropout(0.5), *model[3:]).train()
    model[0].eval()
    model[5].bias.requires_grad_(False)
    model[5].weight.grad = torch.full_like(model[5].weight, 7.0)
    return model, x


def attack_or_none(model: nn.Module, x: Tensor) -> DeepFoolResult | None:
    try:
        return deepfool(model, x)
    except KeyError:
        return None


@pytest.mark.parametrize("fails", [0, 1, 2, 3])
def test_model_in_training_mode_is_left_as_it_was(fails):
    """Also after an exception inside the model, at the clean call or later."""
    model, x = training_model()
    before, calls = copy.deepcopy(model.state_dict()), []
    flags = [(m, m.training) for m in model.modules()]
    grads = [(p, p.requires_grad, p.grad) for p in model.parameters()]

    def count(*_) -> None:
        calls.append(1)
        if len(calls) == fails:
            raise KeyError("inside the model")

    hook = model[2].register_forward_hook(count)
    with pytest.warns(UserWarning, match="dropout or batch-norm in training mode"):
        result = attack_or_none(model, x)
    hook.remove()
    assert (result is None) == (fails > 0)
    assert all(m.training == flag for m, flag in flags)
    assert all(p.requires_grad == flag and p.grad is grad for p, flag, grad in grads)
    assert bool((model[5].weight.grad == 7).all())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    if result is not None:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert torch.equal(result.r, deepfool(model.eval(), x).r)


def test_inside_no_grad_and_with_a_frozen_model():
    model, x = build("cnn")
    want = deepfool(model, x)
    with torch.no_grad():
        got = deepfool(model.requires_grad_(False), x)
        assert not torch.is_grad_enabled()
    assert torch.equal(got.r, want.r)
    assert not any(p.requires_grad for p in model.parameters())


def test_inside_inference_mode():
    model, x = build("cnn")
    text = r"^gradients with respect to x do not exist in torch\.inference_mode\(\): call this out"
    with torch.inference_mode(), pytest.raises(RuntimeError, match=text):
        deepfool(model, x)


def test_x_that_requires_grad_is_left_alone():
    model, x = build("cnn")
    kept, want = x.clone(), deepfool(model, x)
    x.requires_grad_()
    result = deepfool(model, x)
    assert torch.equal(result.r, want.r)
    assert torch.equal(x, kept)
    assert x.requires_grad
    assert x.grad is None
    assert not result.r.requires_grad


@pytest.mark.parametrize("y", [torch.zeros(9), torch.zeros(3), torch.zeros(4, 1)])
@pytest.mark.parametrize("batch_size", [None, 2, 4])
def test_labels_of_a_wrong_shape(y, batch_size):
    model, x = build("mlp")
    text = re.escape(f"y must have shape [N] = [4]; got {list(y.shape)}")
    with pytest.raises(ValueError, match=text):
        deepfool(model, x, y.long(), batch_size=batch_size)


@pytest.mark.parametrize(
    ("kind", "text", "arguments"),
    [
        (ValueError, "candidates must be >= 2; got 1", {"candidates": 1}),
        (TypeError, "candidates must be an integer; got 2.5", {"candidates": 2.5}),
        (ValueError, "overshoot must be finite and >= 0; got -0.1", {"overshoot": -0.1}),
        (ValueError, "overshoot must be finite and >= 0; got inf", {"overshoot": float("inf")}),
        (ValueError, "floor must be finite and >= 0; got nan", {"floor": float("nan")}),
        (ValueError, "steps must be >= 1; got 0", {"steps": 0}),
        (ValueError, "batch_size must be >= 1; got 0", {"batch_size": 0}),
        (ValueError, "linearize must be one of overshot, plain; got 'x'", {"linearize": "x"}),
        (ValueError, "test must be one of overshot, plain; got None", {"test": None}),
        (ValueError, "clip must be (low, high) with low < high; got (1", {"clip": (1, 1)}),
        (TypeError, "p must be a number; got str", {"p": "inf"}),
        (TypeError, "max_norm must be a number; got str", {"max_norm": "1"}),
        (TypeError, "x must be floating point", {"x": torch.ones(4, 6, dtype=torch.uint8)}),
        (TypeError, "x must be a torch.Tensor; got list", {"x": [1.0]}),
        (ValueError, "x must be a non-empty batch [N, ...]; got shape [0, 6]", {"x": draw(0, 6)}),
        (TypeError, "y must be an int64 tensor of labels", {"y": torch.zeros(4)}),
        (TypeError, "y must be an int64 tensor of labels; got list", {"y": [0, 0, 0, 0]}),
        (ValueError, "y must lie in 0 .. K - 1 = 4; got 5 .. 5", {"y": torch.full((4,), 5)}),
        (ValueError, "y must lie in 0 .. K - 1 = 4; got -1 .. -1", {"y": torch.full((4,), -1)}),
        (ValueError, "at least 2 logits per sample; got 1", {"model": lambda x: x[:, :1]}),
        (ValueError, "one row of logits per sample", {"model": lambda x: x.sum()}),
        (TypeError, "tensor of logits; got str", {"model": lambda x: "z"}),
    ],
)
def test_bad_input_is_refused(kind, text, arguments):
    model, x = build("mlp")
    with pytest.raises(kind, match=re.escape(text)):
        deepfool(**{"model": model, "x": x, **arguments})


def test_probabilities_draw_a_warning():
    model, x = build("mlp", 6)
    with pytest.warns(UserWarning, match="look like probabilities"):
        deepfool(nn.Sequential(model, nn.Softmax(dim=1)), x)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        deepfool(model, x)
        deepfool(lambda z: model(z) * float("nan"), x)


@pytest.mark.parametrize("name", ["mlp", "cnn"])
@pytest.mark.parametrize("exponent", [-20, -1, 1, 20])
def test_a_power_of_two_in_front_of_the_logits_changes_nothing(name, exponent):
    """All of f and w scale exactly, and so does no step."""

    class Scale(nn.Module):
        def forward(self, z: Tensor) -> Tensor:
            return z * 2.0**exponent

    model, x = build(name, 12)
    want = deepfool(model, x)
    got = deepfool(nn.Sequential(model, Scale()), x)
    for field in ("adversarial", "norm", "iterations", "success", "label", "vjps"):
        assert torch.equal(getattr(got, field), getattr(want, field)), field


@pytest.mark.parametrize("name", ["smooth_mlp", "cnn"])
def test_threads_do_not_change_the_class(name, threads):
    model, x = build(name, 40)
    threads(1)
    one = deepfool(model, x)
    threads(4)
    four = deepfool(model, x)
    assert torch.equal(one.label, four.label)
    assert torch.equal(one.iterations, four.iterations)
