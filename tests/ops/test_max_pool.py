"""max_pool, max_pool_scatter and max_pool_gather in every life, against PyTorch's max_pool2d."""

import itertools

import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch.autograd import forward_ad

from jacfast.ops import lives, max_pool, max_pool_gather, max_pool_scatter
from jacfast.ops.max_pool import DEAD, reference
from tests.testing import DTYPES, assert_close, layouts

NAN, INF = float("nan"), float("inf")
# (kernel, stride): side by side, overlapping down and across, apart.
WINDOWS = [
    ((2, 2), (2, 2)),
    ((3, 3), (2, 2)),
    ((3, 3), (1, 1)),
    ((2, 3), (1, 2)),
    ((1, 1), (1, 1)),
    ((2, 2), (3, 1)),
    ((1, 2), (2, 3)),
]
# Around the tiles of the CPU kernels, with an odd row or column left over.
SIZES = [(3, 3), (5, 6), (4, 31), (7, 32), (5, 35)]


def pooled(x, kernel, stride, relu):
    """Return max_pool of `x` by PyTorch's max_pool2d, in float64."""
    wide = x.detach().double().cpu()
    value, index = F.max_pool2d(wide, kernel, stride, return_indices=True)
    down = torch.arange(value.shape[2])[:, None] * stride[0]
    across = torch.arange(value.shape[3]) * stride[1]
    width = x.shape[3]
    choice = (index // width - down) * kernel[1] + index % width - across
    if relu:
        choice[value <= 0] = DEAD
        value = value.relu()
    return value, choice.to(torch.uint8)


def check(x, kernel, stride, relu):
    y, choice = max_pool(x, kernel, stride, relu)
    want, places = pooled(x, kernel, stride, relu)
    assert (y.dtype, choice.dtype) == (x.dtype, torch.uint8)
    assert y.device == choice.device == x.device
    assert y.is_contiguous()
    assert choice.is_contiguous()
    torch.testing.assert_close(y.double().cpu(), want, rtol=0, atol=0, equal_nan=True)
    assert torch.equal(choice.cpu(), places)
    return y, choice


def drawn_choice(life, shape, kernel, seed=0):
    """Return choices of all kinds: each entry of the window, dead, and numbers beyond both."""
    entries = kernel[0] * kernel[1]
    kinds = torch.tensor([*range(entries), DEAD, min(entries, DEAD), DEAD - 1])
    draw = torch.randint(len(kinds), shape, generator=torch.Generator().manual_seed(seed))
    return kinds[draw].to(torch.uint8).to(life.device)


def scattered(g, choice, size, kernel, stride):
    """Return max_pool_scatter in float64, one place of the windows after another."""
    out = torch.zeros(*g.shape[:2], *size, dtype=torch.float64)
    g, choice = g.detach().double().cpu(), choice.cpu().long()
    down, across = ((n - 1) * step + 1 for n, step in zip(g.shape[2:], stride, strict=True))
    for place in range(kernel[0] * kernel[1]):
        row, column = divmod(place, kernel[1])
        entries = out[:, :, row : row + down : stride[0], column : column + across : stride[1]]
        entries += torch.where(choice == place, g, 0)
    return out


@pytest.mark.parametrize(("kernel", "stride"), WINDOWS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_sizes_and_dtypes(life, dtype, kernel, stride):
    for number, size in enumerate(SIZES):
        x = life.randn(2, 3, *size, seed=number, dtype=dtype)
        before = x.clone()
        for relu in (False, True):
            check(x, kernel, stride, relu)
        assert torch.equal(x, before)


@pytest.mark.parametrize("size", [(1, 1), (5, 3), (1, 255), (15, 17)])
def test_one_window_of_the_whole_input(life, size):
    x = life.randn(2, 3, *size)
    for stride in ((1, 1), (1000, 2_000_000_000)):
        y, choice = check(x, size, stride, relu=False)
        assert y.shape == (2, 3, 1, 1)
        g = max_pool_scatter(y, choice, size, size, stride)
        assert torch.equal(g.sum((2, 3)), y[:, :, 0, 0])


@pytest.mark.parametrize("relu", [False, True])
def test_many_planes(life, relu):
    check(life.randn(37, 65, 4, 4), (2, 2), (2, 2), relu)
    check(life.randn(37, 65, 4, 4), (3, 3), (1, 1), relu)


def test_large_planes(life):
    x = life.randn(2, 1, 190, 191)
    for kernel, stride in WINDOWS[:2]:
        y, choice = check(x, kernel, stride, True)
        g = max_pool_scatter(y, choice, (190, 191), kernel, stride)
        assert torch.equal(max_pool_gather(x, choice, kernel, stride), y)
        assert_close(g.sum(), y.double().sum(), torch.float32)


@pytest.mark.parametrize("shape", [(0, 3, 4, 4), (2, 0, 4, 4)])
def test_empty(life, shape):
    y, choice = max_pool(life.randn(*shape), (2, 2), (2, 2), True)
    assert y.shape == choice.shape == (*shape[:2], 2, 2)
    assert max_pool_scatter(y, choice, (4, 4), (2, 2), (2, 2)).shape == shape
    assert max_pool_gather(life.randn(*shape), choice, (2, 2), (2, 2)).shape == y.shape


@pytest.mark.parametrize(("kernel", "stride"), WINDOWS[:4])
def test_layouts(life, kernel, stride):
    x = life.randn(2, 3, 6, 8)
    y, choice = max_pool(x, kernel, stride, True)
    back = max_pool_scatter(y, choice, (6, 8), kernel, stride)
    there = max_pool_gather(x, choice, kernel, stride)
    others = layouts(x) | {"last": x.to(memory_format=torch.channels_last)}
    for name, other in others.items():
        got, places = max_pool(other, kernel, stride, True)
        assert torch.equal(got, y), name
        assert torch.equal(places, choice), name
        assert torch.equal(max_pool_gather(other, choice, kernel, stride), there), name
    for name, other in layouts(y).items():
        assert torch.equal(max_pool_scatter(other, choice, (6, 8), kernel, stride), back), name
    wide = choice.new_full((*choice.shape, 2), DEAD)
    wide[..., 1] = choice
    assert torch.equal(max_pool_scatter(y, wide[..., 1], (6, 8), kernel, stride), back)
    assert torch.equal(max_pool_gather(x, wide[..., 1], kernel, stride), there)
    last = torch.channels_last
    places = choice.to(memory_format=last)
    got = max_pool_scatter(y.to(memory_format=last), places, (6, 8), kernel, stride)
    assert torch.equal(got, back)
    assert torch.equal(max_pool_gather(x, places, kernel, stride), there)


@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_ties(life, dtype, relu):
    """The first of equal entries, whatever the others are."""
    patterns = list(itertools.product([-1.0, 0.0, -0.0, 2.0], repeat=4))
    x = life.tensor(patterns, dtype=dtype).reshape(8, 32, 2, 2)
    check(x, (2, 2), (2, 2), relu)
    rows = x.transpose(1, 2).reshape(1, 1, 16, 64)  # the same ones side by side, and overlapping
    check(rows, (2, 2), (2, 2), relu)
    check(rows, (3, 3), (2, 2), relu)


@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_nan_and_infinity(life, dtype, relu):
    """NaN wins and stays alive; a window of -inf has its first entry."""
    patterns = list(itertools.product([NAN, INF, -INF, 1.0], repeat=4))
    x = life.tensor(patterns, dtype=dtype).reshape(8, 32, 2, 2)
    for kernel, stride in WINDOWS[:1] + WINDOWS[4:5]:
        check(x, kernel, stride, relu)
    y, choice = check(x.transpose(1, 2).reshape(1, 1, 16, 64), (2, 2), (2, 2), relu)
    assert (choice[y.isnan()] < 4).all()
    check(x.transpose(1, 2).reshape(1, 1, 16, 64), (3, 3), (1, 1), relu)


@pytest.mark.parametrize(("kernel", "stride"), WINDOWS[:2])
def test_all_negative_under_relu(life, kernel, stride):
    x = -life.randn(2, 3, 7, 8).abs()
    y, choice = max_pool(x, kernel, stride, relu=True)
    assert not y.any()
    assert (choice == DEAD).all()
    assert not max_pool_scatter(y + 1, choice, (7, 8), kernel, stride).any()
    assert not max_pool_gather(x, choice, kernel, stride).any()


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


@pytest.mark.parametrize(("kernel", "stride"), WINDOWS[:2])
def test_same_bits_each_time_and_for_any_threads(life, threads, kernel, stride):
    x = life.randn(9, 4, 66, 66)
    results = []
    for count in (1, 2, 3, 2, 1) if life.name in ("reference", "cpu", "cuda") else (1, 2):
        threads(count)
        y, choice = max_pool(x, kernel, stride, True)
        back = max_pool_scatter(y, choice, (66, 66), kernel, stride)
        results.append((y, choice, back, max_pool_gather(back, choice, kernel, stride)))
    for result in results[1:]:
        assert all(map(torch.equal, result, results[0]))


@settings(
    derandomize=True,
    deadline=None,
    max_examples=40,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(data=st.data())
def test_any_geometry(life, data):
    size = data.draw(st.tuples(st.integers(1, 12), st.integers(1, 40)))
    kernel = tuple(data.draw(st.integers(1, min(n, 6))) for n in size)
    stride = data.draw(st.tuples(st.integers(1, 5), st.integers(1, 5)))
    planes = data.draw(st.tuples(st.integers(0, 2), st.integers(1, 3)))
    relu = data.draw(st.booleans())
    x = life.randn(*planes, *size, seed=size[0] * 100 + size[1])
    y, choice = max_pool(x, kernel, stride, relu)
    want, places = reference(x, kernel, stride, relu)
    assert torch.equal(y, want)
    assert torch.equal(choice, places)
    back = max_pool_scatter(y, choice, size, kernel, stride)
    assert_close(back, scattered(y, choice, size, kernel, stride), torch.float32)
    assert torch.equal(max_pool_gather(x, choice, kernel, stride), y)


X, G, C = torch.ones(2, 3, 4, 5), torch.ones(2, 3, 2, 2), torch.zeros(2, 3, 2, 2).byte()
TWO = (2, 2)


@pytest.mark.parametrize(
    ("function", "arguments", "error", "message"),
    [
        (max_pool, (X[0], TWO, TWO), ValueError, r"x must have shape \[N, C, H, W\].*\[3, 4, 5\]"),
        (max_pool, (X.long(), TWO, TWO), TypeError, "x must be float32.*; got torch.int64"),
        (max_pool, ([1.0], TWO, TWO), TypeError, "x must be a torch.Tensor; got list"),
        (max_pool, (X, 2, TWO), TypeError, "kernel must be two integers; got 2"),
        (max_pool, (X, TWO, (2,)), TypeError, r"stride must be two integers; got \(2,\)"),
        (max_pool, (X, (2.0, 2), TWO), TypeError, r"kernel must be two integers; got \(2.0, 2\)"),
        (max_pool, (X, (0, 2), TWO), ValueError, r"kernel must be at least 1; got \(0, 2\)"),
        (max_pool, (X, TWO, (2, -1)), ValueError, r"stride must be at least 1; got \(2, -1\)"),
        (max_pool, (X, (5, 2), TWO), ValueError, r"no larger than the size.*got \(5, 2\)"),
        (max_pool, (X, (16, 16), TWO), ValueError, r"at most 255 entries; got \(16, 16\)"),
        (max_pool_scatter, (G, C, (6, 5), TWO, TWO), ValueError, "g must have shape"),
        (max_pool_scatter, (G[0], C, (4, 5), TWO, TWO), ValueError, "g must have shape"),
        (max_pool_scatter, (G, C[:1], (4, 5), TWO, TWO), ValueError, "choice must have shape"),
        (max_pool_scatter, (G, C.int(), (4, 5), TWO, TWO), TypeError, "choice must be a uint8"),
        (max_pool_scatter, (G, C, 4, TWO, TWO), TypeError, "size must be two integers; got 4"),
        (max_pool_gather, (X, C[:, :, :1], TWO, TWO), ValueError, "choice must have shape"),
        (max_pool_gather, (X, [0], TWO, TWO), TypeError, "choice must be a uint8.*; got list"),
        (max_pool_gather, (X.byte(), C, TWO, TWO), TypeError, "t must be float32"),
    ],
)
def test_errors(life, function, arguments, error, message):
    moved = (a.to(life.device) if isinstance(a, torch.Tensor) else a for a in arguments)
    with pytest.raises(error, match=message):
        function(*moved)


@pytest.mark.skipif(not lives.BUILT, reason="the extension is not built")
@pytest.mark.parametrize(("kernel", "stride"), WINDOWS[:2])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_registration(dtype, kernel, stride):
    ops = torch.ops.jacfast
    for leaf in (False, True):
        x = torch.randn(2, 3, 7, 6, dtype=dtype).requires_grad_(leaf)
        y, choice = max_pool(x.detach(), kernel, stride, True)
        torch.library.opcheck(ops.max_pool.default, (x, kernel, stride, True))
        g = y.requires_grad_(leaf)
        torch.library.opcheck(ops.max_pool_scatter.default, (g, choice, (7, 6), kernel, stride))
        torch.library.opcheck(ops.max_pool_gather.default, (x, choice, kernel, stride))


@pytest.mark.skipif(not lives.BUILT, reason="the extension is not built")
def test_the_ops_check_for_themselves():
    ops = torch.ops.jacfast
    for call, error, message in (
        (lambda: ops.max_pool(X[0], TWO, TWO, False), ValueError, "x must have 4 dimensions"),
        (lambda: ops.max_pool(X, (2, 0), TWO, False), ValueError, "kernel must be two integers"),
        (lambda: ops.max_pool(X, (2**33, 2**33), TWO, False), ValueError, "at most 255 entries"),
        (lambda: ops.max_pool(X, (5, 2), TWO, False), ValueError, "no larger than the size"),
        (lambda: ops.max_pool(X.long(), TWO, TWO, False), TypeError, "x must be float32"),
        (lambda: ops.max_pool_scatter(G, C, (6, 5), TWO, TWO), ValueError, "choice must have sh"),
        (lambda: ops.max_pool_scatter(G[:, :, 1:], C, (4, 5), TWO, TWO), ValueError, "g must have"),
        (lambda: ops.max_pool_gather(X, C.int(), TWO, TWO), TypeError, "choice must have dtype"),
        (lambda: ops.max_pool_gather(X, C[1:], TWO, TWO), ValueError, "choice must have shape"),
    ):
        with pytest.raises(error, match=message):
            call()


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
