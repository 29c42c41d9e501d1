"""orthonormal_cotangents in every life: the properties that define it, and Gram-Schmidt by hand."""

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jacfast.ops import lives, orthonormal_cotangents
from tests.testing import DTYPES, OP_ERRORS, TOLERANCE, layouts, not_emulated

NAN, INF = float("nan"), float("inf")


def gram_schmidt(draw: torch.Tensor, centred: bool) -> torch.Tensor:
    """The definition in float64 numpy, for draws of full rank."""
    samples, rows, classes = draw.shape
    out = np.empty(draw.shape)
    for i in range(samples):
        done = [np.full(classes, classes**-0.5)] if centred else []
        for j in range(rows):
            v = draw[i, j].double().cpu().numpy()
            for _ in range(2):
                for u in done:
                    v = v - (v @ u) * u
            done.append(v / np.linalg.norm(v))
            out[i, j] = done[-1]
    return torch.from_numpy(out) * ((classes - centred) / max(rows, 1)) ** 0.5


def check_properties(v: torch.Tensor, centred: bool, tolerance: float) -> None:
    samples, rows, classes = v.shape
    wide = v.double().cpu()
    scale = (classes - centred) / max(rows, 1)
    want = scale * torch.eye(rows, dtype=torch.float64).expand(samples, rows, rows)
    torch.testing.assert_close(wide @ wide.mT, want, rtol=0, atol=tolerance * scale)
    if centred:
        assert wide.sum(dim=2).abs().max() <= tolerance * scale**0.5 * classes**0.5
    if rows == classes - centred:
        centring = torch.eye(classes, dtype=torch.float64) - centred / classes
        torch.testing.assert_close(
            wide.mT @ wide, centring.expand(samples, classes, classes), rtol=0, atol=tolerance
        )


@pytest.mark.parametrize("centred", [False, True])
@pytest.mark.parametrize("classes", [1, 2, 3, 10, 31, 33, 65])
def test_orthonormal_and_equal_to_the_definition(life, classes, centred):
    dim = classes - centred
    # Row by row: all but one of the rows are the first ones of all, and beyond 31 classes not anew.
    for rows in sorted({0, 1, 2, dim - 1 if classes < 33 else dim, dim}):
        if not 0 <= rows <= dim:
            continue
        for dtype in (torch.float32, torch.float64):
            # A block has four teams of a warp up to 32 classes, of which three find a sample, and
            # one team beyond: a third sample shows no more of 65 classes, and is most of the time.
            samples = 3 if classes < 65 else 1
            draw = life.randn(samples, rows, classes, seed=rows, dtype=dtype)
            before = draw.clone()
            v = orthonormal_cotangents(draw, centred)
            assert (v.dtype, v.device, v.shape) == (draw.dtype, draw.device, draw.shape)
            assert v.is_contiguous()
            assert torch.equal(draw, before)
            if rows:
                check_properties(v, centred, 20 * TOLERANCE[dtype])
            # The last rows of a full basis are what is left over: compare with the conditioning.
            loose = TOLERANCE[dtype] * 2000
            want = gram_schmidt(draw, centred)
            torch.testing.assert_close(v.double().cpu(), want, rtol=0, atol=loose * dim**0.5)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_dtypes(life, dtype):
    draw = life.randn(4, 3, 10, dtype=dtype)
    v = orthonormal_cotangents(draw)
    assert v.dtype == dtype
    torch.testing.assert_close(
        v.double().cpu(), gram_schmidt(draw, False), rtol=0, atol=4 * TOLERANCE[dtype] * 10**0.5
    )


def test_one_vector_is_the_draw_normalised(life):
    draw = life.randn(5, 1, 10)
    v = orthonormal_cotangents(draw)
    want = draw / draw.norm(dim=2, keepdim=True) * 10**0.5
    torch.testing.assert_close(v, want)


@pytest.mark.parametrize("centred", [False, True])
@pytest.mark.parametrize("bad", ["equal", "zero", "nan", "inf", "combination", "constant"])
def test_dependent_rows_are_replaced(life, bad, centred):
    draw = life.randn(3, 4, 6)
    want = orthonormal_cotangents(draw, centred)
    draw[1, 2] = {
        "equal": draw[1, 0],
        "zero": 0.0,
        "nan": NAN,
        "inf": INF,
        "combination": draw[1, 0] - 3 * draw[1, 1],
        "constant": 2.0,
    }[bad]
    v = orthonormal_cotangents(draw, centred)
    assert v.isfinite().all()
    check_properties(v, centred, 1e-5)
    assert torch.equal(v[::2], want[::2])
    assert torch.equal(v[1, :2], want[1, :2])


def test_all_rows_zero(life):
    v = orthonormal_cotangents(torch.zeros(2, 3, 3, device=life.device))
    check_properties(v, False, 1e-6)


def test_empty(life):
    for shape in ((0, 2, 5), (3, 0, 5)):
        assert orthonormal_cotangents(life.randn(*shape)).shape == shape


def test_layouts(life):
    draw = life.randn(4, 3, 9)
    want = orthonormal_cotangents(draw)
    for name, view in layouts(draw).items():
        assert torch.equal(orthonormal_cotangents(view), want), name


@not_emulated
def test_same_bits_for_any_threads(life, threads):
    draw = life.randn(500, 3, 50)
    results = []
    for count in (1, 2, 2):
        threads(count)
        results.append(orthonormal_cotangents(draw))
    if life.name == "reference":  # einsum itself depends on the number of threads
        results = results[1:]
    assert all(torch.equal(r, results[0]) for r in results)


@settings(
    derandomize=True, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(n=st.integers(0, 6), k=st.integers(1, 20), share=st.floats(0, 1), centred=st.booleans())
def test_any_shape(life, n, k, share, centred):
    rows = round(share * (k - centred))
    v = orthonormal_cotangents(life.randn(n, rows, k, seed=n + 100 * k), centred)
    if n and rows:
        check_properties(v, centred, 2e-5)


@pytest.mark.parametrize(
    ("draw", "centred", "error", "message"),
    [
        (torch.ones(2, 3), False, ValueError, r"gaussian must have shape \[N, n, K\]"),
        (torch.ones(2, 4, 3), False, ValueError, "n <= K = 3 rows per sample; got n = 4"),
        (torch.ones(2, 3, 3), True, ValueError, r"n <= K - 1 \(centred\) = 2 .*; got n = 3"),
        (torch.ones(2, 3, 3).int(), False, TypeError, "gaussian must be float32.*torch.int32"),
        (torch.ones(1, 1, 3).requires_grad_(), False, ValueError, "must not require grad"),
    ],
)
def test_errors(life, draw, centred, error, message):
    with pytest.raises(error, match=message):
        orthonormal_cotangents(draw.to(life.device), centred)


@pytest.mark.skipif(not lives.BUILT, reason="the extension is not built")
def test_registration():
    op = torch.ops.jacfast.orthonormal_cotangents
    torch.library.opcheck(op.default, (torch.randn(2, 3, 5), True))
    with pytest.raises(OP_ERRORS, match="gaussian must have n <= 2 rows"):
        op(torch.ones(1, 3, 3), True)
    with pytest.raises(OP_ERRORS, match="gaussian must be float32 or float64"):
        op(torch.ones(1, 1, 3).half(), False)
