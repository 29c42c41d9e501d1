"""Gradients through batch-norm are right in whatever layout they come."""

import warnings

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from jacfast import Frobenius, deepfool, forward_with_penalty, jacobian, layouts
from tests.nets import RTOL, relative_error


def laid_out(t: Tensor, order: tuple[int, ...], one: int) -> Tensor:
    """Return t with its dimensions in another order in memory; `one` for the strides of size 1."""
    strides, size = [0] * t.dim(), 1
    for d in reversed(order):
        strides[d], size = (one if t.shape[d] == 1 else size), size * t.shape[d]
    return torch.empty_strided(t.shape, strides, dtype=t.dtype).copy_(t)


class LaidOut(torch.autograd.Function):
    """The identity; its output is laid out in one way, its gradient in another."""

    @staticmethod
    def forward(ctx, x, way, back):
        ctx.ways = back, way
        return laid_out(x, *way)

    @staticmethod
    def backward(ctx, g):
        return LaidOut.apply(g, *ctx.ways), None, None


def by_hand(norm: nn.Module, x: Tensor) -> Tensor:
    """Return a normalisation layer's output, written out in operations that have no layout."""
    spread = (1, -1, 1, 1)
    if isinstance(norm, nn.InstanceNorm2d):
        mean = x.mean((2, 3), keepdim=True)
        variance = x.var((2, 3), keepdim=True, unbiased=False)
    else:
        mean, variance = norm.running_mean.view(spread), norm.running_var.view(spread)
    scaled = (x - mean) / (variance + norm.eps).sqrt()
    return scaled * norm.weight.view(spread) + norm.bias.view(spread)


class Net(nn.Module):
    """A normalisation layer, its input in one layout and its gradient in another.

    By hand, if there are no layouts.
    """

    def __init__(self, norm: nn.Module, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.norm, self.shape, self.ways = norm, shape, None
        size = shape[0] * shape[1] * shape[2]
        self.first, self.head = nn.Linear(size, size), nn.Linear(size, 4)

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x.flatten(1)).unflatten(1, self.shape)
        if self.ways is None:
            h = by_hand(self.norm, h)
        else:
            inner, outer = self.ways
            h = self.norm(LaidOut.apply(h, inner, inner))
            h = LaidOut.apply(h, outer, outer)
        return self.head(h.tanh().flatten(1))


NORMS = {"batch-norm": nn.BatchNorm2d, "instance-norm": nn.InstanceNorm2d}
SHAPES = [(1, 6, 3, 3), (1, 3, 5, 2), (2, 3, 1, 5), (2, 3, 4, 1), (1, 3, 5, 1), (1, 3, 1, 5)]
IMAGES, LAST = (0, 1, 2, 3), (0, 2, 3, 1)  # orders of dimensions in memory
WAYS = [
    ((order, one), (other, two))
    for order, other in ((IMAGES, LAST), (LAST, IMAGES))
    for one, two in ((1, 1), (1, 7), (1000, 1))
]
EXACT = Frobenius("exact")


def net(norm: str, shape: tuple[int, ...]) -> tuple[Net, Tensor]:
    torch.manual_seed(0)
    layer = NORMS[norm](shape[1], affine=True)
    if norm == "batch-norm":
        nn.init.normal_(layer.running_mean)
        nn.init.uniform_(layer.running_var, 0.5, 2.0)
    nn.init.uniform_(layer.weight, 0.5, 2.0)
    model = Net(layer, shape[1:]).double().eval()
    return model, torch.randn(*shape, dtype=torch.float64)


def rows(model: Net, x: Tensor, create_graph: bool = False) -> Tensor:
    """Return the Jacobian [N, K, ...] by hand."""
    model.ways = None
    x = x.detach().clone().requires_grad_()
    z = model(x)
    graph = {"retain_graph": True, "create_graph": create_graph}
    return torch.stack([torch.autograd.grad(z[:, k].sum(), x, **graph)[0] for k in range(4)], 1)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("norm", NORMS)
def test_rows(norm, shape):
    model, x = net(norm, shape)
    want = rows(model, x)
    for model.ways in WAYS:
        for called in (lambda z: model(z), model):
            assert relative_error(jacobian(called, x), want) < RTOL[torch.float64]


CALLS = {
    "one line": lambda model, x: EXACT(model(x), x),
    "step": lambda model, x: forward_with_penalty(model, x, penalty=EXACT)[1],
    "checkpoint": lambda model, x: EXACT(checkpoint(model, x, use_reentrant=False), x),
}


@pytest.mark.parametrize("way", CALLS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("norm", NORMS)
def test_gradients_of_a_penalty(norm, shape, way):
    model, x = net(norm, shape)
    parameters = list(model.parameters())
    value = rows(model, x, create_graph=True).square().sum() / len(x)
    want = torch.autograd.grad(value, parameters, materialize_grads=True)
    for model.ways in WAYS:
        value = CALLS[way](model, x.clone().requires_grad_())
        found = torch.autograd.grad(value, parameters, materialize_grads=True)
        torch.testing.assert_close(found, want, rtol=1e-9, atol=1e-9)


def test_deepfool_of_one_sample():
    model, x = net("batch-norm", SHAPES[0])
    want = deepfool(model, x)
    for model.ways in WAYS:
        for called in (lambda z: model(z), model):
            got = deepfool(called, x)
            torch.testing.assert_close(got.r, want.r, rtol=1e-6, atol=1e-9)


def test_the_loss_beside_a_penalty_is_right_too():
    """What PyTorch alone has wrong in these layouts: the gradient of the logits themselves."""
    model, x = net("batch-norm", SHAPES[0])
    parameters = list(model.parameters())
    want = torch.autograd.grad(model(x).square().sum(), parameters)
    for model.ways in WAYS:
        leaf = x.clone().requires_grad_()
        logits = model(leaf)
        EXACT(logits, leaf)
        found = torch.autograd.grad(logits.square().sum(), parameters)
        torch.testing.assert_close(found, want, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("shape", [(1, 6, 3, 2, 2), (2, 3, 1, 2, 1)], ids=str)
def test_volumes(shape):
    norm = nn.BatchNorm3d(shape[1]).double().eval()
    nn.init.uniform_(norm.running_var, 0.5, 2.0)
    slopes = (norm.running_var + norm.eps).rsqrt().view(-1, 1, 1, 1)
    x, v = torch.randn(2, *shape, dtype=torch.float64)
    orders = (0, 1, 2, 3, 4), (0, 2, 3, 4, 1)
    for inner, outer in (orders, orders[::-1]):
        leaf, ways = x.clone().requires_grad_(), [(inner, 1)] * 2 + [(outer, 7)] * 2
        h = LaidOut.apply(norm(LaidOut.apply(leaf, *ways[:2])), *ways[2:])
        EXACT(h.flatten(1), leaf)
        torch.testing.assert_close(torch.autograd.grad(h, leaf, v)[0], v * slopes)


def gray() -> tuple[nn.BatchNorm2d, nn.Linear, Tensor]:
    """Return batch-norm and head of a network for colours, and one sample of a single colour."""
    norm, head = nn.BatchNorm2d(3).double().eval(), nn.Linear(45, 4).double()
    nn.init.uniform_(norm.running_var, 0.5, 2.0)
    return norm, head, torch.randn(1, 1, 5, 3, dtype=torch.float64)


def test_an_input_whose_entries_share_memory():
    """Its own strides are none in which a gradient could lie."""
    norm, head, x = gray()
    found = jacobian(lambda z: head(norm(z.expand(-1, 3, -1, -1)).flatten(1)), x)
    want = jacobian(lambda z: head(by_hand(norm, z.expand(-1, 3, -1, -1)).flatten(1)), x)
    torch.testing.assert_close(found, want)


def test_a_branch_without_x_whose_graph_is_freed():
    norm, head, x = gray()
    x.requires_grad_()
    other = norm(torch.randn(1, 3, 5, 3, dtype=torch.float64).requires_grad_()).flatten(1)
    other.sum().backward()
    logits = head(x.expand(-1, 3, -1, -1).flatten(1)).sin()
    found, want = (EXACT(z, x) for z in (logits + other[:, :4], logits))
    torch.testing.assert_close(found, want)


def test_a_graph_is_seen_to_once(monkeypatch):
    """Each call would lay the gradient out once more."""
    norm, head, x = gray()
    x.requires_grad_()
    made, in_strides = [], layouts._in_strides
    monkeypatch.setattr(layouts, "_in_strides", lambda s: made.append(s) or in_strides(s))
    logits = head(norm(x.expand(-1, 3, -1, -1)).flatten(1))
    values = [EXACT(logits, x) for _ in range(3)]
    assert len(made) == 1
    assert values[0] == values[1] == values[2]


class Patches(nn.Module):
    """Tokens [N, 9, 6] as images, as vision transformers with batch-norm have them."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.head = nn.BatchNorm2d(6), nn.Linear(54, 4)
        nn.init.normal_(self.norm.running_mean)
        nn.init.uniform_(self.norm.running_var, 0.5, 2.0)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(x.permute(0, 2, 1).reshape(-1, 6, 3, 3)).flatten(1))


CALLED = {
    "module": lambda model, x: model,
    "function": lambda model, x: lambda z: model(z),
    "compiled": lambda model, x: torch.compile(model, backend="eager"),
    "traced": torch.jit.trace,
}


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
@pytest.mark.parametrize("kind", CALLED)
def test_one_sample_is_as_in_a_batch(kind):
    torch.manual_seed(0)
    model = Patches().double().eval()
    x = torch.randn(3, 9, 6, dtype=torch.float64)
    called = CALLED[kind](model, x)
    for alone, together in zip(x, jacobian(called, x), strict=True):
        assert relative_error(jacobian(called, alone[None])[0], together) < RTOL[torch.float64]
    results = deepfool(called, x)
    for alone, together in zip(x, results.r, strict=True):
        assert relative_error(deepfool(called, alone[None]).r[0], together) < 1e-6


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_one_sample_of_what_torch_script_has_fused_is_warned_of():
    """Its batch-norm is out of reach, and PyTorch's gradient through it is wrong."""
    torch.manual_seed(0)
    model = nn.Sequential(Patches(), nn.Tanh(), nn.Linear(4, 3)).double().eval()
    scripted = torch.jit.script(model)
    x = torch.randn(2, 9, 6, dtype=torch.float64)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        for _ in range(4):  # TorchScript fuses after some calls
            torch.testing.assert_close(jacobian(scripted, x), jacobian(model, x))
        jacobian(model, x[:1])
    for _ in range(3):
        scripted(x[:1].requires_grad_())
    with pytest.warns(UserWarning, match="TorchScript has fused layers"):
        jacobian(scripted, x[:1])
