"""max_pool in every life, against PyTorch's max_pool2d; and what comes back, in any layout."""

import itertools

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jacfast.ops import max_pool, max_pool_gather, max_pool_scatter
from jacfast.ops.max_pool import DEAD, reference
from tests.ops.pooling import SIZES, WINDOWS, pooled, scattered
from tests.testing import DTYPES, assert_close, layouts, not_emulated

NAN, INF = float("nan"), float("inf")


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


@not_emulated
@pytest.mark.parametrize(("kernel", "stride"), WINDOWS[:2])
def test_same_bits_each_time_and_for_any_threads(life, threads, kernel, stride):
    x = life.randn(9, 4, 66, 66)
    results = []
    for count in (1, 2, 3, 2, 1):
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
