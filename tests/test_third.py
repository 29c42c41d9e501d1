"""Models that differentiate themselves: a penalty's gradient is a third derivative.

The oracle is the same model with its normalisation written out in operations.
"""

import itertools
import types

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import jacfast
from jacfast.graph import Graph, coupling, leaf_of, nodes
from jacfast.third import BATCH, CUDNN, PLACES, of_normalisation
from tests.nets import draw, relative_error


def written_out(x: Tensor, dims: list[int], eps: float) -> Tensor:
    shift = x - x.mean(dims, keepdim=True)
    return shift / (shift.square().mean(dims, keepdim=True) + eps).sqrt()


class Norm(nn.Module):
    """[N, 4, 6] normalised: by PyTorch's function, or by operations."""

    def __init__(self, kind: str, affine: bool, by_hand: bool) -> None:
        super().__init__()
        shape = {"layer": (6,), "layer of two": (4, 6)}.get(kind, (4,))
        self.weight = nn.Parameter(draw(*shape, seed=1)) if affine else None
        self.bias = nn.Parameter(draw(*shape, seed=2)) if affine else None
        self.kind, self.shape, self.by_hand = kind, shape, by_hand
        self.register_buffer("mean", draw(4, seed=3))
        self.register_buffer("var", draw(4, seed=4).square() + 1)

    def forward(self, x: Tensor) -> Tensor:
        if self.by_hand:
            return self.out(x)
        if self.kind.startswith("layer"):
            return F.layer_norm(x, self.shape, self.weight, self.bias, 0.1)
        if self.kind == "instance":
            return F.instance_norm(x, weight=self.weight, bias=self.bias, eps=0.1)
        statistics = (None, None) if self.kind == "batch" else (self.mean, self.var)
        train = self.kind == "batch"
        return F.batch_norm(x, *statistics, self.weight, self.bias, train, eps=0.1)

    def out(self, x: Tensor) -> Tensor:
        if self.kind == "batch in eval mode":
            y = (x - self.mean[:, None]) / (self.var[:, None] + 0.1).sqrt()
        else:
            dims = {"layer": [2], "layer of two": [1, 2], "instance": [2], "batch": [0, 2]}
            y = written_out(x, dims[self.kind], 0.1)
        if self.weight is None:
            return y
        if self.kind.startswith("layer"):
            return y * self.weight + self.bias
        return y * self.weight[:, None] + self.bias[:, None]


class Force(nn.Module):
    """The gradient in x of an energy, as of atoms in a force field; the norm is last if asked."""

    def __init__(self, kind: str, affine: bool, by_hand: bool, last: bool) -> None:
        super().__init__()
        self.linear = nn.Linear(5, 24)
        with torch.no_grad():
            for number, p in enumerate(self.linear.parameters()):
                p.copy_(draw(*p.shape, seed=10 + number))
        self.norm, self.last = Norm(kind, affine, by_hand), last

    def forward(self, x: Tensor) -> Tensor:
        x = x if x.requires_grad else x.detach().requires_grad_()
        h = self.norm(self.linear(x).unflatten(1, (4, 6)))
        energy = (h * torch.arange(24.0).view(4, 6)).sum() if self.last else h.sin().sum()
        return torch.autograd.grad(energy, x, create_graph=True)[0]


def one_line(model: nn.Module, x: Tensor, options: dict) -> Tensor:
    x = x.clone().requires_grad_()
    return jacfast.frobenius_penalty(model(x), x, "exact", **options)


def step(model: nn.Module, x: Tensor, options: dict) -> Tensor:
    penalty = jacfast.Frobenius("exact")
    return jacfast.forward_with_penalty(model, x, penalty=penalty, **options)[1]


def recorded(model: nn.Module, x: Tensor, options: dict) -> Tensor:
    step(model, x, {**options, "compiled": "traced"})
    return step(model, x, {**options, "compiled": "traced"})


def loop(model: nn.Module, x: Tensor) -> Tensor:
    """Return the mean squared Frobenius norm by a row at a time; sums over the batch couple none
    but batch statistics, which 'coupled' differentiates as they are."""
    x = x.clone().requires_grad_()
    z = model(x)
    rows = [torch.autograd.grad(z[:, k].sum(), x, create_graph=True)[0] for k in range(5)]
    return sum(row.square().sum() for row in rows) / len(x)


def gradients(value: Tensor, model: nn.Module) -> list[Tensor]:
    parameters = list(model.parameters())
    found = torch.autograd.grad(value, parameters, allow_unused=True, materialize_grads=True)
    return list(found)


@pytest.mark.parametrize("way", [one_line, step, recorded])
@pytest.mark.parametrize("affine", [False, True])
@pytest.mark.parametrize(
    ("kind", "last"),
    [
        *itertools.product(("layer", "layer of two", "instance", "batch"), (False, True)),
        ("batch in eval mode", False),  # if that is last, the force is constant
    ],
)
def test_a_model_that_differentiates_itself(kind, affine, last, way):
    model, hand = (Force(kind, affine, by_hand, last).double() for by_hand in (False, True))
    x = draw(3, 5, seed=20)
    want = loop(hand, x)
    value = way(model, x, {"batch_norm": "coupled"} if kind == "batch" else {})
    torch.testing.assert_close(value, want)
    for p, (got, expected) in zip(
        model.parameters(),
        zip(gradients(value, model), gradients(want, hand), strict=True),
        strict=True,
    ):
        assert got.shape == p.shape
        torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("way", [one_line, step])
def test_batch_statistics_of_such_a_model_couple_samples(way):
    model = Force("batch", True, False, True).double()
    with pytest.raises(RuntimeError, match="batch-norm"):
        way(model, draw(3, 5), {})


def test_in_half_precision_and_float32():
    for dtype, most in ((torch.float32, 1e-4), (torch.bfloat16, 0.1)):
        model, hand = (Force("layer", True, b, False).double() for b in (False, True))
        x = draw(3, 5, seed=20)
        want = torch.cat([g.flatten() for g in gradients(loop(hand, x), hand)])
        model = model.to(dtype)
        value = one_line(model, x.to(dtype), {})
        got = torch.cat([g.flatten().double() for g in gradients(value, model)])
        assert relative_error(got, want) < most


@pytest.mark.parametrize("kind", ["layer", "layer of two", "instance", "batch"])
def test_float16_where_squares_are_beyond_its_range(kind):
    """Of inputs of about 1000 the variance is finite, as PyTorch's own layer has it."""
    model, hand = (Force(kind, True, by_hand, False).half() for by_hand in (False, True))
    model.linear.weight.data *= 600
    hand.load_state_dict(model.state_dict())
    x = draw(3, 5, seed=20, dtype=torch.float16)
    value = one_line(model, x, {"batch_norm": "coupled"} if kind == "batch" else {})
    want = loop(hand.double(), x.double())
    torch.testing.assert_close(value.double(), want, rtol=1e-2, atol=0)


def test_a_model_that_returns_the_gradient_of_its_bias():
    """That hangs from no input of the normalisation but the gradient that comes in."""
    x, found = draw(1, 5, seed=20), []
    for by_hand in (False, True):
        net = Force("layer", True, by_hand, False).double()

        def model(x, net=net):
            h = net.norm(net.linear(x).unflatten(1, (4, 6)))
            return torch.autograd.grad(h.sin().sum(), net.norm.bias, create_graph=True)[0][None]

        value = one_line(model, x, {})
        found.append([value, *gradients(value, net)])
    torch.testing.assert_close(*found)


def test_a_node_of_cudnn_has_the_same_derivative():
    """Its inputs have another order, and other names; a GPU is not needed to read them."""
    x = draw(1, 4, 6).requires_grad_()
    weight, bias = (draw(4, seed=k).requires_grad_() for k in (1, 2))
    y = F.batch_norm(x, None, None, weight, bias, True, eps=0.1)
    (out,) = torch.autograd.grad(y.sin().sum(), x, create_graph=True)
    native = next(node for node in nodes(out) if node.name() == BATCH)
    cudnn = types.SimpleNamespace(
        name=lambda: CUDNN,
        _saved_input=native._saved_input,
        _saved_grad_output=native._saved_grad_out,
        _saved_weight=native._saved_weight,
        _saved_epsilon=native._saved_eps,
    )
    incoming = (draw(1, 4, 6, seed=5), None, draw(4, seed=6))
    one, zero = torch.ones(()), None
    of_g, of_x, of_weight, *_ = of_normalisation(native)((one, one, one, zero, zero), incoming)
    found = of_normalisation(cudnn)((one, one, one, zero, zero), incoming)
    for got, want in zip(found, (of_x, of_g, of_weight, None, None), strict=True):
        assert got is want or torch.equal(got, want)


def test_the_order_of_a_node_of_cudnn():
    """Its graph is there on "meta": x leads to the first of its inputs, g to the second."""
    x, ones = torch.ones(3, 4, 5, device="meta", requires_grad=True), torch.ones(4, device="meta")
    y = torch.cudnn_batch_norm(x, ones, ones, None, None, True, 0.1, 1e-5)[0]
    (out,) = torch.autograd.grad(y.sin().sum(), x, create_graph=True)
    node = next(node for node in nodes(out) if node.name() == CUDNN)
    g_at, x_at, _ = PLACES[CUDNN]
    assert leaf_of(node.next_functions[x_at][0]) is x
    assert "Mul" in node.next_functions[g_at][0].name()
    assert list(coupling(Graph(out), x))
