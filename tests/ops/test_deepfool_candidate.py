"""deepfool_candidate in every life: any order of offers ends where deepfool_step does."""

import itertools

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jacfast.ops import Nearest, deepfool_candidate, deepfool_step, lives
from tests.ops.test_deepfool_step import INF, NAN, oracle, problem
from tests.testing import (
    DTYPES,
    LONG,
    OP_ERRORS,
    SIZES,
    TOLERANCE,
    assert_close,
    layouts,
    starting_at,
)


def offer_all(logits, rows, origin, order) -> Nearest:
    sample = torch.arange(len(origin), device=rows.device)
    nearest = Nearest.empty(len(origin), rows.shape[2], rows)
    for k in order:
        w = rows[:, k] - rows[sample, origin]
        f = logits[:, k] - logits[sample, origin]
        deepfool_candidate(w, f, torch.full_like(origin, k), nearest)
    return nearest


def equals_step(nearest: Nearest, logits, rows, origin, floor=0.0):
    r, winner, distance = deepfool_step(logits, rows, origin, floor)
    assert nearest.winner.tolist() == winner.tolist()
    torch.testing.assert_close(nearest.distance, distance, rtol=3e-7, atol=0)
    bound = 4 * TOLERANCE[rows.dtype] * r.double().norm(dim=1, keepdim=True)
    assert bool(((nearest.step(floor).double() - r.double()).abs() <= bound).all())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_sizes(life, dtype):
    for size in (*SIZES, *LONG):
        logits, rows, origin = problem(life, 3, 4, size, dtype, seed=size)
        equals_step(offer_all(logits, rows, origin, range(4)), logits, rows, origin, 0.1)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_dtypes_of_the_state(life, dtype):
    """Half types keep w as given, and distances in float32."""
    w = life.randn(3, 20, dtype=dtype)
    f = life.randn(3, seed=1, dtype=dtype)
    label = torch.arange(3, device=life.device)
    nearest = Nearest.empty(3, 20, w)
    deepfool_candidate(w, f, label, nearest)
    acc = torch.float64 if dtype == torch.float64 else torch.float32
    assert nearest.distance.dtype == nearest.norm.dtype == acc
    assert torch.equal(nearest.w, w)
    norm = w.double().norm(dim=1)
    torch.testing.assert_close(nearest.norm.double(), norm, rtol=1e-6, atol=0)
    torch.testing.assert_close(
        nearest.distance.double(), f.double().abs() / norm, rtol=1e-6, atol=0
    )
    assert torch.equal(nearest.winner, label)


# A team for each row; and 34 parts a row, more than the lanes that join them, where the few orders
# of three classes meet every turn of what is kept as well.
@pytest.mark.parametrize(("classes", "size"), [(4, 20), (3, 70_000)])
def test_any_order(life, classes, size):
    logits, rows, origin = problem(life, 2, classes, size)
    for order in itertools.permutations(range(classes)):
        equals_step(offer_all(logits, rows, origin, order), logits, rows, origin)


def test_ties_in_any_order_go_to_the_lowest_class(life):
    w = life.tensor([[3.0, 4.0]])
    for order in itertools.permutations([1, 2, 5]):
        nearest = Nearest.empty(1, 2, w)
        for k in order:
            label = torch.tensor([k], device=life.device)
            deepfool_candidate(w if k != 5 else -w, life.tensor([2.0]), label, nearest)
        assert nearest.winner.item() == 1
        assert torch.equal(nearest.w, w)


def test_a_farther_candidate_changes_nothing(life):
    w, label = life.randn(2, 9), torch.zeros(2, dtype=torch.int64, device=life.device)
    nearest = Nearest.empty(2, 9, w)
    deepfool_candidate(w, life.tensor([1.0, 1.0]), label, nearest)
    before = [t.clone() for t in nearest]
    deepfool_candidate(2 * w, life.tensor([2.5, -3.0]), label + 1, nearest)
    assert all(torch.equal(a, b) for a, b in zip(nearest, before, strict=True))


@pytest.mark.parametrize("bad", ["zero w", "nan w", "inf w", "nan f", "inf f", "tiny w"])
def test_skipped_candidates_change_nothing(life, bad):
    w, f = life.randn(3, 40), life.tensor([1.0, 1.0, 1.0])
    value = {"zero": 0.0, "nan": NAN, "inf": INF, "tiny": 1e-40}[bad.split()[0]]
    if bad.endswith("w"):
        w[1] = value
        f[1] = 0.0  # a tie: only the norm stands in the way of distance 0
    else:
        f[1] = value
    nearest = Nearest.empty(3, 40, w)
    deepfool_candidate(w, f, torch.tensor([0, 1, 2], device=life.device), nearest)
    assert nearest.winner.tolist() == [0, -1, 2]
    assert nearest.distance[1] == INF
    step = nearest.step(0.5)
    assert step[1].tolist() == [0.0] * 40
    assert step.isfinite().all()


@pytest.mark.parametrize("scale", [1e-30, 1e17])
def test_scales_whose_squares_leave_float32(life, scale):
    logits, rows, origin = problem(life, 3, 4, 40)
    rows, logits = rows * scale, logits * min(scale, 1.0)
    nearest = offer_all(logits, rows, origin, range(4))
    r, winner, _ = oracle(logits, rows, origin)
    assert nearest.winner.tolist() == winner.tolist()
    torch.testing.assert_close(nearest.step().double().cpu(), r, rtol=1e-4, atol=0)


def test_empty(life):
    nearest = Nearest.empty(0, 7, life.randn(0, 7))
    label = torch.zeros(0, dtype=torch.int64, device=life.device)
    deepfool_candidate(life.randn(0, 7), life.randn(0), label, nearest)
    assert nearest.step().shape == (0, 7)


def test_layouts(life):
    w, f = life.randn(4, 67), life.randn(4, seed=1)
    label = torch.arange(4, device=life.device)
    want = Nearest.empty(4, 67, w)
    deepfool_candidate(w, f, label, want)
    for name, view in layouts(w).items():
        nearest = Nearest.empty(4, 67, w)
        deepfool_candidate(view, f.repeat_interleave(2)[::2], label, nearest)
        assert all(torch.equal(a, b) for a, b in zip(nearest, want, strict=True)), name


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_rows_may_start_between_boundaries(life, dtype):
    """What is kept is aligned, what is offered may not be."""
    for size in (1, 2, 5, 8, 41):
        w, f = life.randn(3, size, dtype=dtype), life.randn(3, seed=1, dtype=dtype)
        label = torch.arange(3, device=life.device)
        for offset in range(9):
            nearest = Nearest.empty(3, size, w)
            deepfool_candidate(starting_at(w, offset), f, label, nearest)
            assert torch.equal(nearest.w, w)
            assert_close(nearest.norm, w.double().norm(dim=1), dtype)


@settings(
    derandomize=True, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(n=st.integers(0, 8), c=st.integers(1, 8), d=st.integers(1, 200))
def test_any_shape(life, n, c, d):
    logits, rows, origin = problem(life, n, c, d, seed=n + 10 * c + 1000 * d)
    equals_step(offer_all(logits, rows, origin, reversed(range(c))), logits, rows, origin)


W, F, L = torch.ones(2, 3), torch.ones(2), torch.zeros(2, dtype=torch.int64)


@pytest.mark.parametrize(
    ("arguments", "state", "error", "message"),
    [
        ((W[0], F, L), W, ValueError, r"w must have shape \[N, D\]"),
        ((W, F.double(), L), W, TypeError, "f must have the dtype of w"),
        ((W, F[:1], L), W, ValueError, r"f must have shape \[N\] = \[2\]; got \[1\]"),
        ((W, F, L.float()), W, TypeError, r"label must be an int64 tensor; got torch.float32"),
        ((W, F, L), W[:1], ValueError, r"nearest.w must have shape .* = \[2, 3\]; got \[1, 3\]"),
        ((W, F, L), W.double(), TypeError, "nearest.w must have the dtype of w"),
        ((W.clone().requires_grad_(), F, L), W, ValueError, "must not require grad.*deepfool_step"),
        ((W, F.clone().requires_grad_(), L), W, ValueError, "must not require grad.*deepfool_step"),
    ],
)
def test_errors(life, arguments, state, error, message):
    nearest = Nearest.empty(*state.shape, state.to(life.device))
    before = [t.clone() for t in nearest]
    with pytest.raises(error, match=message):
        deepfool_candidate(*(a.to(life.device) for a in arguments), nearest)
    assert all(torch.equal(a, b) for a, b in zip(nearest, before, strict=True))


@pytest.mark.skipif(not lives.BUILT, reason="the extension is not built")
def test_registration():
    state = Nearest.empty(2, 3, W)
    torch.library.opcheck(torch.ops.jacfast.deepfool_candidate.default, (W, F, L, *state))
    short = state._replace(distance=torch.zeros(1))
    with pytest.raises(OP_ERRORS, match=r"nearest.distance must have shape \[2\]; got \[1\]"):
        torch.ops.jacfast.deepfool_candidate(W, F, L, *short)
