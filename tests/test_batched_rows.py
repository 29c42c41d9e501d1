"""Rows of the Jacobian from one batched backward pass, block by block as networks have them."""

import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

import jacfast.batching
import jacfast.vjp
from jacfast import jacobian
from jacfast.ops.lives import life
from jacfast.vjp import pull_back
from tests.nets import draw, relative_error
from tests.step.networks import SIX, build
from tests.testing import batch_rows


class Seen(TorchDispatchMode):
    """The samples that each call of an operation sees in its first argument."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name, self.samples = name, list[int]()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.name() == self.name:
            self.samples.append(len(args[0]))
        return func(*args, **(kwargs or {}))


def one_by_one(model: nn.Module, x: Tensor) -> Tensor:
    """Return J [N, K, ...] by a backward pass of autograd for each logit."""
    x = x.clone().requires_grad_()
    rows = [torch.autograd.grad(z.sum(), x, retain_graph=True)[0] for z in model(x).unbind(1)]
    return torch.stack(rows, dim=1)


@pytest.mark.parametrize("samples", [1, 2, 5])
@pytest.mark.parametrize("name", SIX)
def test_equal_to_rows_one_by_one(name, samples):
    """Also of residual sums, batch-norm, average pooling, depthwise convolutions, attention."""
    model, x, _ = build(name, samples)
    model.eval()
    assert relative_error(jacobian(model, x), one_by_one(model, x)) < 1e-12


@pytest.mark.parametrize(("rows", "seen_at_once"), [(0, {3}), (3, {3}), (4, {9, 6}), (5, {15})])
def test_a_convolution_sees_all_rows_that_fit(rows, seen_at_once, monkeypatch):
    """The largest tensor of a sample has 4 x 8 x 8 entries of 8 bytes; five rows of 3 samples."""
    model, x, _ = build("resnet", 3)
    monkeypatch.setattr(
        jacfast.batching, "ROWS_BYTES", rows * 3 * 4 * 64 * 8 // 8
    )  # of lean layers
    with Seen("aten::convolution_backward") as seen:
        got = jacobian(model.eval(), x)
    assert set(seen.samples) == seen_at_once
    assert len(got[0]) == 5
    assert relative_error(got, one_by_one(model, x)) < 1e-12


@pytest.mark.skipif(life(torch.device("cpu")) == "reference", reason="needs the compiled op")
def test_our_pooling_sees_all_rows():
    """Beside a convolution that lean layers leave alone, so that the rows go through `vmap`."""
    model = nn.Sequential(nn.Conv2d(2, 4, 3, groups=2), nn.MaxPool2d(2), nn.Flatten()).double()
    with Seen("jacfast::max_pool_scatter") as seen:
        got = jacobian(model, draw(3, 2, 8, 8))
    assert set(seen.samples) == {3 * len(got[0])}


def test_an_operation_without_a_rule_says_nothing(monkeypatch):
    weight = draw(1, 1, 1, 1)

    def attention(x):
        x = F.conv2d(x, weight)
        return F.scaled_dot_product_attention(x, x, x).flatten(1)

    x = draw(2, 1, 3, 4)
    monkeypatch.setattr(jacfast.vjp, "_ruled", {})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        before = list(warnings.filters)
        for _ in range(2):
            got = jacobian(attention, x)
            assert relative_error(got, one_by_one(attention, x)) < 1e-12
        assert warnings.filters == before
    assert set(jacfast.vjp._ruled.values()) <= {False}


def test_vmap_is_for_convolutions_of_some_samples(monkeypatch):
    """What else there is PyTorch's own batching does as fast, or faster."""
    asked, vmap = [], torch.func.vmap
    monkeypatch.setattr(torch.func, "vmap", lambda f: asked.append(1) or vmap(f))
    for name, samples, times in (("resnet", 2, 1), ("resnet", 1, 0), ("mlp", 2, 0)):
        model, x, _ = build(name, samples)
        asked.clear()
        assert relative_error(jacobian(model.eval(), x), one_by_one(model, x)) < 1e-12
        assert len(asked) == times, name


def test_lean_layers_have_more_at_once(monkeypatch):
    """The largest tensor of a sample, in double precision, has 256 entries: 2 KB. Four rows."""
    made, grad = [], jacfast.vjp.grad
    monkeypatch.setattr(jacfast.vjp, "grad", lambda *a, **b: made.append(1) or grad(*a, **b))
    layers = [nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.AvgPool2d(8), nn.Flatten()]
    model = nn.Sequential(*layers).double().eval()
    weight = draw(4, 1, 1, 1)

    def function(x: Tensor) -> Tensor:
        return F.avg_pool2d(F.conv2d(x, weight), 8).flatten(1)

    cases = (model, 512, 1), (model, 513, 4), (function, 32, 1), (function, 33, 4)
    for called, samples, calls in cases:
        made.clear()
        jacobian(called, draw(samples, 1, 8, 8))
        assert len(made) == calls


def test_settings_of_warnings_are_touched_once_for_a_kind_of_network(monkeypatch):
    """In the second call those of another thread, in the meantime, would be lost."""
    model, x, _ = build("resnet", 2)
    model.eval()
    jacobian(model, x)
    monkeypatch.setattr(warnings, "catch_warnings", None)
    assert relative_error(jacobian(model, x), one_by_one(model, x)) < 1e-12


def test_what_has_no_rule_at_all_is_asked_once(monkeypatch):
    asked = []

    def refuses(_):
        asked.append(1)
        raise RuntimeError("no rule")

    monkeypatch.setattr(torch.func, "vmap", lambda _: refuses)
    monkeypatch.setattr(jacfast.vjp, "_ruled", {})
    model, x, _ = build("resnet", 2)
    for _ in range(2):
        assert relative_error(jacobian(model.eval(), x), one_by_one(model, x)) < 1e-12
    assert len(asked) == 1


def test_warnings_of_the_model_are_the_users(monkeypatch):
    class Warns(torch.autograd.Function):
        generate_vmap_rule = True

        @staticmethod
        def forward(x):
            return 2 * x

        @staticmethod
        def setup_context(ctx, inputs, output):
            pass

        @staticmethod
        def backward(ctx, g):
            warnings.warn("mine", UserWarning, stacklevel=1)
            return 2 * g

    monkeypatch.setattr(jacfast.batching, "batches", lambda *_, **__: True)
    monkeypatch.setattr(jacfast.vjp, "_ruled", {})
    weight = draw(2, 1, 1)
    with pytest.warns(UserWarning, match="mine"):
        jacobian(lambda x: F.conv1d(Warns.apply(x), weight).square().flatten(1), draw(2, 1, 3))
    assert list(jacfast.vjp._ruled.values()) == [True]


def test_layouts():
    """A batched pass of channels_last tensors, whose strides leave a choice for one sample."""
    model, x, _ = build("resnet", 1)
    model.eval().to(memory_format=torch.channels_last)
    for some in (x, x.contiguous(memory_format=torch.channels_last), draw(1, 2, 8, 9)[..., 1:]):
        assert relative_error(jacobian(model, some), one_by_one(model, some)) < 1e-12


@pytest.mark.parametrize("create_graph", [False, True])
@pytest.mark.parametrize("samples", [1, 2])
def test_batch_norm_whose_strides_leave_a_choice(samples, create_graph, monkeypatch):
    """Of one row of pixels, without lean layers, by `vmap` and by autograd's own batching."""
    batch_rows(monkeypatch, together=True)
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(4)
    nn.init.uniform_(norm.running_var, 0.5, 2.0)
    layers = [nn.Conv2d(2, 4, (6, 4)), norm, nn.Conv2d(4, 3, 1), nn.Tanh(), nn.Flatten()]
    model = nn.Sequential(*layers).double().eval()
    x = draw(samples, 2, 6, 6)
    want = one_by_one(model, x)
    vectors = torch.eye(9, dtype=x.dtype)[:, None].expand(9, samples, 9)
    for first in (torch.contiguous_format, torch.channels_last):
        for second in (torch.contiguous_format, torch.channels_last):
            layers[0].to(memory_format=first)
            layers[2].to(memory_format=second)
            for form in (torch.contiguous_format, torch.channels_last):
                leaf = x.contiguous(memory_format=form).requires_grad_()
                got = pull_back(model(leaf), leaf, vectors, create_graph)
                assert relative_error(got.detach().transpose(0, 1), want.flatten(2)) < 1e-12


@pytest.mark.parametrize("of", ["jagged", "strided"])
@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors:UserWarning")
def test_nested_tensors_are_looped_over(of):
    """Whose sizes a graph does not tell; of a first derivative alone does PyTorch have one."""
    weight = draw(4, 5)

    def jagged(x: Tensor) -> Tensor:
        ends = torch.tensor([0, *range(3, 3 * len(x) + 1, 3)])
        nested = torch.nested.nested_tensor_from_jagged(x.reshape(-1, 4), ends)
        return (nested * nested).values().reshape(len(x), 3, 4) @ weight

    def strided(x: Tensor) -> Tensor:
        nested = torch.nested.as_nested_tensor(list(x.unbind(0)))
        return (nested * nested).to_padded_tensor(0.0) @ weight

    function = jagged if of == "jagged" else strided
    x = draw(2, 3, 4)
    got = jacobian(lambda x: function(x).flatten(1), x)
    assert relative_error(got, one_by_one(lambda x: function(x).flatten(1), x)) < 1e-12


@pytest.mark.parametrize("of", ["jacobian", "frobenius_penalty", "forward_with_penalty"])
def test_anomaly_detection_names_no_layer_that_has_none(of):
    """It looks at each gradient for NaN, for which there is no batching rule: an error in rows."""
    model, x = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 5)), draw(4, 8)
    model.to(x.dtype)
    with warnings.catch_warnings(record=True) as said, torch.autograd.detect_anomaly():
        warnings.simplefilter("always")
        if of == "jacobian":
            jacobian(model, x)
        elif of == "forward_with_penalty":
            jacfast.forward_with_penalty(model, x, penalty=jacfast.Frobenius("exact"))[1].backward()
        else:
            x = x.requires_grad_()
            jacfast.frobenius_penalty(model(x), x, n="exact").backward()
    assert not [str(one.message) for one in said if "Error detected" in str(one.message)]
