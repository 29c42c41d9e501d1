"""max_pool_scatter and max_pool_gather in every life, and every derivative of the three."""

import pytest
import torch
import torch.nn.functional as F
from torch.autograd import forward_ad

from jacfast.ops import max_pool, max_pool_gather, max_pool_scatter
from jacfast.ops.max_pool import DEAD, reference
from tests.ops.pooling import SIZES, WINDOWS, drawn_choice, pooled, scattered
from tests.testing import DTYPES, assert_close, not_emulated

NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(("kernel", "stride"), WINDOWS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_scatter_and_gather(life, dtype, kernel, stride):
    """Any choices, not only those of a maximum; and each is the other's transpose."""
    for number, size in enumerate(SIZES):
        t = life.randn(2, 3, *size, seed=number, dtype=dtype)
        shape = pooled(t, kernel, stride, False)[0].shape
        g = life.randn(*shape, seed=number + 50, dtype=dtype)
        choice = drawn_choice(life, shape, kernel, seed=number)
        out = max_pool_scatter(g, choice, size, kernel, stride)
        assert (out.dtype, out.shape, out.device) == (dtype, t.shape, t.device)
        weights = scattered(g, choice, size, kernel, stride)
        assert_close(out, weights, dtype)
        taken = max_pool_gather(t, choice, kernel, stride)
        assert (taken.dtype, taken.shape, taken.device) == (dtype, g.shape, t.device)
        left = (weights * t.double().cpu()).sum()
        right = (g.double() * taken.double()).sum().cpu()
        torch.testing.assert_close(left, right, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("value", [NAN, INF])
@pytest.mark.parametrize(("kernel", "stride"), WINDOWS[:2])
def test_what_is_not_chosen_does_not_matter(life, kernel, stride, value):
    """NaN of a dead window goes nowhere, and NaN beside the chosen entries is not taken."""
    t = life.tensor([[[[value, 3.0, value], [value, value, value], [5.0, value, value]]]])
    windows = max_pool(t, kernel, stride)[0].shape
    dead = torch.full(windows, DEAD, dtype=torch.uint8, device=life.device)
    assert not max_pool_gather(t, dead, kernel, stride).any()
    assert not max_pool_scatter(
        torch.full_like(dead, 1).float() * value, dead, (3, 3), kernel, stride
    ).any()
    assert (max_pool_gather(t, torch.ones_like(dead), kernel, stride) == 3).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_sums_of_half_types_are_rounded_once(life, dtype):
    """Nine windows share an entry: 1024 and eight of 0.25, which added one by one would vanish."""
    g = torch.full((1, 1, 3, 3), 0.25, dtype=dtype, device=life.device)
    g[0, 0, 0, 0] = 1024
    choice = life.tensor([[[[8, 7, 6], [5, 4, 3], [2, 1, 0]]]], dtype=torch.uint8)
    out = max_pool_scatter(g, choice, (5, 5), (3, 3), (1, 1))
    want = torch.zeros(5, 5, dtype=dtype)
    want[2, 2] = 1026
    assert torch.equal(out[0, 0].cpu(), want)


@not_emulated
@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize(("kernel", "stride"), WINDOWS[:4])
def test_derivatives(life, kernel, stride, relu):
    x = life.randn(1, 2, 4, 5, dtype=torch.float64).requires_grad_()
    _, choice = max_pool(x, kernel, stride, relu)
    g = life.randn(*choice.shape, dtype=torch.float64, seed=1).requires_grad_()

    def value(x):
        return max_pool(x, kernel, stride, relu)[0]

    def scatter(g):
        return max_pool_scatter(g, choice, (4, 5), kernel, stride)

    def gather(t):
        return max_pool_gather(t, choice, kernel, stride)

    for function, at in ((value, x), (scatter, g), (gather, x)):
        assert torch.autograd.gradcheck(function, at)
        assert torch.autograd.gradgradcheck(function, at)


@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize(("kernel", "stride"), WINDOWS[:3])
def test_the_gradient_is_that_of_pytorch(life, kernel, stride, relu):
    x = life.randn(3, 2, 9, 34).requires_grad_()
    want = F.max_pool2d(x.relu() if relu else x, kernel, stride)
    g = life.randn(*want.shape, seed=1)
    (want,) = torch.autograd.grad(want, x, g)
    y, choice = max_pool(x, kernel, stride, relu)
    assert not choice.requires_grad
    (got,) = torch.autograd.grad(y, x, g)
    assert_close(got, want, torch.float32)


def test_batched_gradients(life):
    """A batched backward is a vmap, under which the references run."""
    x = life.randn(2, 3, 6, 6).requires_grad_()
    y, _ = max_pool(x, (2, 2), (2, 2), True)
    g = life.randn(4, *y.shape)
    (got,) = torch.autograd.grad(y, x, g, is_grads_batched=True, retain_graph=True)
    for one, together in zip(g, got, strict=True):
        assert torch.equal(torch.autograd.grad(y, x, one, retain_graph=True)[0], together)


@pytest.mark.parametrize("relu", [False, True])
def test_transforms_and_forward_mode(life, relu):
    """There the references run: a torch.library op has no rule for either."""
    kernel, stride = (3, 3), (2, 2)
    x, t = life.randn(2, 3, 7, 7), life.randn(2, 3, 7, 7, seed=1)
    choice = max_pool(x, kernel, stride, relu)[1]
    want = max_pool_gather(t, choice, kernel, stride)
    _, tangent = torch.func.jvp(lambda x: max_pool(x, kernel, stride, relu)[0], (x,), (t,))
    assert torch.equal(tangent, want)
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(x, t)
        tangent = forward_ad.unpack_dual(max_pool(dual, kernel, stride, relu)[0]).tangent
    assert torch.equal(tangent, want)
    y = torch.func.vmap(lambda x: max_pool(x, kernel, stride, relu)[0])(torch.stack([x, t]))
    assert torch.equal(y[1], reference(t, kernel, stride, relu)[0])


@not_emulated
def test_compiled(life):
    def total(x):
        y, choice = max_pool(x * 2, (2, 2), (2, 2), True)
        return (y**2).sum() + max_pool_gather(x, choice, (2, 2), (2, 2)).sum()

    x = life.randn(2, 3, 6, 8).requires_grad_()
    torch._dynamo.reset()
    for dynamic in (False, True):
        compiled = torch.compile(total, fullgraph=True, backend="aot_eager", dynamic=dynamic)
        (want,), (got,) = (torch.autograd.grad(f(x), x) for f in (total, compiled))
        assert_close(got, want, torch.float32)
