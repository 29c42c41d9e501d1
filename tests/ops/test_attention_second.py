"""attention_second in every life, against the second derivative of attention by autograd."""

import pytest
import torch
from torch import Tensor

from jacfast.ops import attention_second, lives
from tests.testing import OP_ERRORS, SIZES, TOLERANCE, assert_close, not_emulated

NAN, INF = float("nan"), float("inf")
DTYPES = (torch.float32, torch.float64)


def oracle(tile: Tensor) -> Tensor:
    """P, dS, W and G in float64, by autograd through the definition of the first derivative.

    With q(S, dP) = <E, dS> + <F, P>, as attention's first derivative enters the second one: the
    derivative in dP is P * (E - rowsum(P * E)), that in S is G.
    """
    scores, dp, e, f = (t.double().cpu().clone() for t in tile)
    scores.requires_grad_()
    dp.requires_grad_()
    p = scores.exp() / scores.exp().sum(-1, keepdim=True)
    ds = p * (dp - (p * dp).sum(-1, keepdim=True))
    g, w = torch.autograd.grad((e * ds).sum() + (f * p).sum(), (scores, dp))
    return torch.stack([p.detach(), ds.detach(), w, g])


def run(tile: Tensor) -> Tensor:
    given = tile.clone()
    assert attention_second(given) is None
    return given


def check(tile: Tensor) -> None:
    for got, want in zip(run(tile), oracle(tile), strict=True):
        assert_close(got, want, tile.dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_sizes_and_dtypes(life, dtype):
    for size in (*SIZES[1:], 1023, 1025, 4097):  # a row of one has no derivative: below
        check(life.randn(4, 3, size, seed=size, dtype=dtype))


def test_a_row_of_one_score(life):
    p, *rest = run(life.randn(4, 5, 1))
    assert torch.equal(p, torch.ones_like(p))
    assert all(float(each.abs().max()) < 1e-6 for each in rest)


@pytest.mark.parametrize("shape", [(0, 5), (3, 0), (0, 0)])
def test_empty(life, shape):
    assert run(life.randn(4, *shape)).shape == (4, *shape)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shift", [300.0, -300.0])
def test_only_differences_of_scores_count(life, dtype, shift):
    """Of shifted scores the exponential is beyond the numbers of float32."""
    tile = life.randn(4, 3, 37, dtype=torch.float64)
    want = oracle(tile)
    tile[0] += shift
    rounding = abs(shift) * torch.finfo(dtype).eps
    for got, one in zip(run(tile.to(dtype)).double().cpu(), want, strict=True):
        atol = (TOLERANCE[dtype] + rounding) * float(one.abs().max())
        torch.testing.assert_close(got, one, rtol=0, atol=atol)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_exponential(life, dtype):
    """Of scores from the largest to where probabilities vanish, each to its own precision."""
    least = -690.0 if dtype == torch.float64 else -80.0
    tile = torch.zeros(4, 1, 4001, dtype=dtype)
    tile[0, 0] = torch.linspace(least, 0, 4001, dtype=dtype)
    p = run(tile.to(life.device))[0, 0].cpu()
    exact = torch.linspace(least, 0, 4001, dtype=dtype).double().exp()
    error = (p.double() * exact.sum() / exact - 1).abs().max()
    assert float(error) < (4 if dtype == torch.float32 else 40) * torch.finfo(dtype).eps


def test_what_is_far_below_the_largest_score_is_nothing(life):
    tile = life.randn(4, 2, 40)
    tile[0, :, 1:] = -200.0
    p, *rest = run(tile)
    assert p[:, 0].tolist() == [1, 1]
    assert not p[:, 1:].any()
    assert all(float(each.abs().max()) < 1e-6 for each in rest)


@pytest.mark.parametrize("size", [5, 40, 300])
def test_masked_scores(life, size):
    """They count for nothing; where all are masked, there is nothing."""
    tile = life.randn(4, 3, size)
    tile[0, 0, 2:] = -INF
    tile[0, 1] = -INF
    tile[0, 2, 0] = -INF
    want = oracle(tile)
    want[:, 1] = 0
    for got, one in zip(run(tile), want, strict=True):
        assert_close(got, one, torch.float32)
    assert not run(tile)[:, 1].any()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("value", [INF, -INF, NAN])
@pytest.mark.parametrize("plane", [1, 2, 3])
def test_what_is_masked_whole_is_0_whatever_its_cotangents_are(life, plane, value, dtype):
    for size, at in ((3, 0), (40, 39), (300, 7)):
        tile = life.randn(4, 3, size, dtype=dtype)
        tile[0, 1] = -INF
        want = run(tile)
        tile[plane, 1, at] = value
        assert torch.equal(run(tile), want)
        assert not want[:, 1].any()


@pytest.mark.parametrize("plane", range(4))
@pytest.mark.parametrize(("size", "at"), [(5, 0), (40, 39), (300, 7)])
def test_nan_stays_in_its_row(life, plane, size, at):
    tile = life.randn(4, 3, size)
    want = run(tile)
    tile[plane, 1, at] = NAN
    got = run(tile)
    assert torch.equal(got[:, ::2], want[:, ::2])
    assert got[3, 1].isnan().all()
    tile[0, 1] = NAN
    assert run(tile)[:, 1].isnan().all()


def test_means_do_not_cost_precision(life):
    """What all cotangents of a row have in common drops out, and must not take digits along."""
    tile = life.randn(4, 3, 1000)
    tile[1:3] += 30
    for got, want in zip(run(tile), oracle(tile), strict=True):
        error = (got.double().cpu() - want).abs().max() / want.abs().max()
        assert float(error) < 3e-6


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_rows_may_start_between_boundaries(life, dtype):
    """Vector loads need an address that 16 bytes divide."""
    for size in (3, 8, 32):
        for offset in (1, 2, 3):
            wide = life.randn(4 * 5 * size + offset, dtype=dtype)
            tile = wide[offset:].view(4, 5, size)
            want = oracle(tile)
            before = wide[:offset].clone()
            attention_second(tile)
            for got, one in zip(tile, want, strict=True):
                assert_close(got, one, dtype)
            assert torch.equal(wide[:offset], before)


@not_emulated
def test_same_bits_each_time_and_for_any_threads(life, threads):
    tile = life.randn(4, 40, 5000)
    found = []
    for count in (1, 2, 2, 1):
        threads(count)
        found.append(run(tile))
    if life.name == "reference":  # torch.sum itself depends on the number of threads
        found = found[::3]
    assert all(torch.equal(each, found[0]) for each in found)


@pytest.mark.parametrize(
    ("tile", "error", "message"),
    [
        (torch.ones(4, 3), ValueError, r"tile must have shape \[4, R, S\]; got \[4, 3\]"),
        (torch.ones(3, 4, 4), ValueError, r"shape \[4, R, S\]; got \[3, 4, 4\]"),
        (torch.ones(4, 3, 2).mT, ValueError, r"contiguous; got strides \(6, 1, 2\)"),
        (torch.ones(4, 3, 2).half(), TypeError, r"float32 or float64; got torch.float16"),
        ([[1.0]], TypeError, r"tile must be a torch.Tensor; got list"),
    ],
)
def test_errors(life, tile, error, message):
    with pytest.raises(error, match=message):
        attention_second(tile.to(life.device) if isinstance(tile, Tensor) else tile)


@pytest.mark.skipif(not lives.BUILT, reason="the extension is not built")
def test_registration():
    op = torch.ops.jacfast.attention_second
    for dtype in DTYPES:
        torch.library.opcheck(op.default, (torch.randn(4, 3, 5, dtype=dtype),))
    for tile, message in (
        (torch.ones(4, 3), "3 dimensions"),
        (torch.ones(3, 4, 4), r"shape \[4, R, S\]"),
        (torch.ones(4, 3, 2).mT, "contiguous"),
        (torch.ones(4, 3, 2).half(), "float32 or float64"),
    ):
        with pytest.raises(OP_ERRORS, match=message):
            op(tile)


@not_emulated
def test_compiled(life):
    def second(tile):
        given = tile * 2
        attention_second(given)
        return given + 1

    tile = life.randn(4, 3, 9)
    torch._dynamo.reset()
    compiled = torch.compile(second, fullgraph=True, backend="aot_eager")
    assert_close(compiled(tile), second(tile), torch.float32)
