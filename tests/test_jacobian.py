"""jacobian: rows against torch.func.jacrev, and the model left as it was."""

import copy
import re

import pytest
import torch
import torch._dynamo
from torch import Tensor, nn

import jacfast.vjp
from jacfast import jacobian
from tests.nets import NETS, RTOL, build, draw, parameters, relative_error, rows_of
from tests.testing import batch_rows


def by_jacrev(model: nn.Module, x: Tensor) -> Tensor:
    """Return J [N, K, ...] in float64."""
    model, x = copy.deepcopy(model).double(), x.double()
    rows = torch.stack([rows_of(model, parameters(model), sample) for sample in x])
    return rows.detach().unflatten(2, x.shape[1:])


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("samples", [1, 3, 70])
@pytest.mark.parametrize("name", ["mlp", "cnn"])
def test_equals_jacrev(name, samples, dtype):
    model, x = build(name, samples, dtype)
    got = jacobian(model, x)
    assert got.shape == (samples, 5, *x.shape[1:])
    assert got.dtype == dtype
    assert not got.requires_grad
    assert relative_error(got, by_jacrev(model, x)) < RTOL[dtype]


@pytest.mark.parametrize("name", sorted(set(NETS) - {"mlp", "cnn"}))
def test_every_net(name):
    model, x = build(name)
    assert relative_error(jacobian(model, x), by_jacrev(model, x)) < RTOL[x.dtype]


@pytest.mark.parametrize("chunk", [None, 1, 2, 3, 4, 5, 99])
@pytest.mark.parametrize("classes", [None, [3], [4, 0, 2], (1, 1), range(5), torch.tensor([2, 0])])
def test_classes_in_their_order_by_chunks(classes, chunk):
    model, x = build("cnn")
    want = by_jacrev(model, x)
    got = jacobian(model, x, classes, chunk)
    order = range(5) if classes is None else [int(k) for k in classes]
    assert relative_error(got, torch.stack([want[:, k] for k in order], dim=1)) < RTOL[x.dtype]


class NoBatchingRule(torch.autograd.Function):
    """x^2, whose derivative looks at its values, which vmap forbids."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.square()

    @staticmethod
    def backward(ctx, g):
        if g.sum().item() > 1e9:
            raise RuntimeError("too large a cotangent")
        return 2 * ctx.saved_tensors[0] * g


@pytest.mark.parametrize("rule", [True, False])
@pytest.mark.parametrize("together", [True, False])
def test_one_batched_backward_or_a_loop(together, rule, monkeypatch):
    """One batched call where that pays; where it does not, or with a Function, one per row."""
    calls, plain = [], jacfast.vjp.grad

    def spy(*args, batched: bool = False, **rest):
        calls.append(batched)
        return plain(*args, batched=batched, **rest)

    monkeypatch.setattr(jacfast.vjp, "grad", spy)
    batch_rows(monkeypatch, together)
    w, x = draw(5, 6), draw(3, 6, seed=2)
    square = torch.square if rule else NoBatchingRule.apply
    got = jacobian(lambda x: square(x) @ w.T, x)
    torch.testing.assert_close(got, 2 * x[:, None] * w)
    assert calls == ([True] if together and rule else [False] * 5)


def test_error_of_a_backward_pass_is_shown():
    with pytest.raises(RuntimeError, match="too large a cotangent"):
        jacobian(lambda x: 1e10 * NoBatchingRule.apply(x), draw(3, 6))


@pytest.mark.parametrize("samples", [3, 70])
def test_compiled_model(samples):
    model, x = build("cnn", samples)
    torch._dynamo.reset()
    compiled = torch.compile(model, backend="aot_eager")
    assert relative_error(jacobian(compiled, x), jacobian(model, x)) < RTOL[x.dtype]
    torch._dynamo.reset()


def test_inputs_that_are_not_contiguous_or_require_grad():
    model, x = build("cnn")
    want = by_jacrev(model, x)
    view = x.transpose(2, 3).contiguous().transpose(2, 3).requires_grad_()
    assert relative_error(jacobian(model, view), want) < RTOL[x.dtype]
    assert view.grad is None
    assert view.requires_grad


def test_model_without_gradients():
    """A frozen model, inside torch.no_grad, of an input that needs none."""
    model, x = build("mlp")
    want = jacobian(model, x)
    with torch.no_grad():
        assert torch.equal(jacobian(model.requires_grad_(False), x), want)
    assert not any(p.requires_grad for p in model.parameters())


def test_a_function_is_a_model():
    w = draw(3, 4)
    assert torch.equal(jacobian(lambda x: x @ w.T, draw(2, 4)), w.expand(2, 3, 4))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_rows_have_the_dtype_of_x_whatever_that_of_the_logits(dtype):
    w = draw(3, 4, dtype=torch.float32)
    got = jacobian(lambda x: x.float() @ w.T, draw(2, 4, dtype=dtype))
    torch.testing.assert_close(got, w.to(dtype).expand(2, 3, 4), rtol=0, atol=0)


def test_model_is_left_as_it_was():
    model, x = build("conv_batch_norm")
    want = by_jacrev(model, x)
    model.train()
    model[2].eval()
    model[4].bias.requires_grad_(False)
    model[0].weight.grad = torch.ones_like(model[0].weight)
    before = copy.deepcopy(model.state_dict())
    with pytest.warns(UserWarning, match="batch-norm in training mode"):
        assert relative_error(jacobian(model, x), want) < RTOL[x.dtype]
    assert [m.training for m in model.modules()] == [True, True, True, False, True, True]
    assert [p.requires_grad for p in model.parameters()] == [True] * 5 + [False]
    assert bool((model[0].weight.grad == 1).all())
    assert all(p.grad is None for p in list(model.parameters())[1:])
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name


@pytest.mark.parametrize(
    ("kind", "text", "arguments"),
    [
        (ValueError, "classes must be indices in 0 .. K - 1 = 4; got [5]", {"classes": [5]}),
        (
            ValueError,
            "classes must be indices in 0 .. K - 1 = 4; got [0, -1]",
            {"classes": [0, -1]},
        ),
        (ValueError, "classes must be indices in 0 .. K - 1 = 4; got []", {"classes": []}),
        (TypeError, "integers, and no mask; got False", {"classes": [False, True, True, False]}),
        (TypeError, "integers, and no mask; got True", {"classes": torch.tensor([True, False])}),
        (TypeError, "integers, and no mask; got 0.5", {"classes": [0.5]}),
        (TypeError, "classes must be a sequence of integers; got 2", {"classes": 2}),
        (TypeError, "classes must be a sequence of integers; got '2'", {"classes": "2"}),
        (ValueError, "chunk_size must be >= 1; got 0", {"chunk_size": 0}),
        (TypeError, "x must be floating point", {"x": torch.ones(2, 6, dtype=torch.uint8)}),
        (TypeError, "x must be a torch.Tensor; got list", {"x": [1.0]}),
        (ValueError, "x must be a non-empty batch [N, ...]; got shape [0, 6]", {"x": draw(0, 6)}),
        (ValueError, "x must be a non-empty batch [N, ...]; got shape [6]", {"x": draw(6)}),
        (TypeError, "tensor of logits; got str", {"model": lambda x: "z"}),
        (ValueError, "one row of logits per sample", {"model": lambda x: x[:1]}),
        (ValueError, "one row of logits per sample", {"model": lambda x: x.sum()}),
    ],
)
def test_bad_input_is_refused(kind, text, arguments):
    model, x = build("mlp")
    with pytest.raises(kind, match=re.escape(text)):
        jacobian(**{"model": model, "x": x, **arguments})


def test_logits_that_do_not_depend_on_x():
    def detached(x: Tensor) -> Tensor:
        return x.detach()[:, :3]

    with pytest.raises(ValueError, match="do not depend on x"):
        jacobian(detached, draw(2, 6))
    weight = draw(3, 1).requires_grad_()  # a graph, but not through x
    with pytest.raises(ValueError, match="do not depend on x"):
        jacobian(lambda x: weight.T.expand(len(x), 3) * 1, draw(2, 6))


@pytest.mark.parametrize("samples", [1, 3])
def test_batch_norm_before_a_channels_last_convolution(samples):
    """PyTorch's batched backward pass of it is wrong for one sample: rows are looped over."""
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(5)
    nn.init.uniform_(norm.running_var, 0.5, 2.0)
    layers = [norm, nn.Conv2d(5, 2, 2), nn.Flatten(), nn.Linear(98, 5)]
    model = nn.Sequential(*layers).double().eval().to(memory_format=torch.channels_last)
    x = draw(samples, 5, 8, 8)
    torch.testing.assert_close(jacobian(model, x), jacobian(model, x, chunk_size=1))
