"""halfspace_projection in every life, against other solvers and the conditions of an optimum."""

import math

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jacfast.ops import halfspace_projection, lives
from tests.ops import halfspaces as other
from tests.testing import layouts, starting_at

DTYPES = [torch.float64, torch.float32]
ROUNDING = {torch.float64: 1e-8, torch.float32: 3e-6}
INF, NAN = math.inf, math.nan


def on(life, problem, dtype=torch.float64):
    """Return a problem on the device of a life, in a dtype, with the bounds c that it has then."""
    low, high, w, c = (t.to(life.device) for t in problem)
    return low.to(dtype), high.to(dtype), w.to(dtype), c


def fulfilled(given, r, missed, tolerance):
    """Check the box, and that the second result is what r misses."""
    low, high, w, c = given
    assert r.dtype == w.dtype
    assert missed.dtype == torch.float64
    assert bool(((r >= low) & (r <= high)).all())
    length = torch.linalg.vector_norm(w.double(), dim=2).clamp(min=1e-30)
    want = ((c - (w.double() @ r.double()[..., None])[..., 0]) / length).amax(1).clamp(min=0)
    scale = (c.abs() / length).amax(1)
    assert bool(((missed - want).abs() <= tolerance * scale).all())
    return want / scale


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("alike", [0.0, 0.9, 0.999])
@pytest.mark.parametrize("box", ["inside", "corner", "none"])
def test_against_quadratic_programming(life, alike, box, dtype):
    for size, cuts in ((4, 1), (4, 2), (4, 3), (37, 1), (37, 3), (37, 8)):
        given = on(life, other.problem(size, cuts, alike, box=box), dtype)
        r, missed = halfspace_projection(*given)
        assert float(fulfilled(given, r, missed, ROUNDING[dtype]).max()) < ROUNDING[dtype]
        want = torch.from_numpy(np.stack([other.quadratic(*one) for one in other.each(given)]))
        got = r.double().cpu()
        torch.testing.assert_close(got.norm(dim=1), want.norm(dim=1), rtol=1e-6, atol=1e-7)
        torch.testing.assert_close(got, want, rtol=0, atol=2e-4)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("size", "cuts"), [(1025, 3), (3000, 2), (784, 8)])
def test_long_rows_are_optimal(life, size, cuts, dtype):
    for box in ("inside", "corner"):
        given = on(life, other.problem(size, cuts, 0.9, samples=2, box=box), dtype)
        r, missed = halfspace_projection(*given)
        fulfilled(given, r, missed, ROUNDING[dtype])
        found = zip(r.double().cpu().numpy(), other.each(given), strict=True)
        assert all(other.is_optimal(one, sample, 100 * ROUNDING[dtype]) for one, sample in found)


def test_rows_as_long_as_large_images(life):
    if "emulated" in life.name:
        pytest.skip("the emulator takes minutes for rows so long")
    given = on(life, other.problem(150_528, 3, 0.9, samples=2), torch.float32)
    r, missed = halfspace_projection(*given)
    fulfilled(given, r, missed, 1e-6)
    found = zip(r.double().cpu().numpy(), other.each(given), strict=True)
    assert all(other.is_optimal(one, sample, 1e-4) for one, sample in found)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("box", ["inside", "corner", "none"])
def test_the_maximum_norm_against_linear_programming(life, box, dtype):
    for size, cuts, alike in ((4, 1, 0), (4, 2, 0.9), (37, 1, 0), (37, 3, 0.9), (37, 8, 0.5)):
        given = on(life, other.problem(size, cuts, alike, box=box, samples=2), dtype)
        r, missed = halfspace_projection(*given, INF)
        assert float(fulfilled(given, r, missed, 1e-5).max()) < 1e-5
        want = torch.tensor([other.linear(*one) for one in other.each(given)])
        got = r.double().abs().amax(dim=1).cpu()
        assert bool((got >= want * (1 - 1e-4) - 1e-9).all())
        assert bool((got <= want * (1 + 5.1e-4) + 1e-9).all())


def is_sparse(given, r, tolerance):
    """Check the 1-norm of r against linear programming: too long by what the threshold allows."""
    shortest = torch.from_numpy(np.stack([other.sparse(*one) for one in other.each(given)]))
    dense = halfspace_projection(*given)[0].double().abs().sum(dim=1).cpu()
    got, want = r.double().abs().sum(dim=1).cpu(), shortest.abs().sum(dim=1)
    most = 0.1 * shortest.abs().amax(dim=1) / dense.clamp(min=1e-9)
    assert bool((got >= want * (1 - tolerance) - 1e-9).all())
    assert bool((got <= want * (1 + most + 1e-6) + 1e-9).all())


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("box", ["inside", "corner", "none"])
def test_the_1_norm_against_linear_programming(life, box, dtype):
    for size, cuts, alike in ((4, 1, 0), (4, 2, 0.9), (37, 1, 0), (37, 3, 0.9), (37, 8, 0.5)):
        given = on(life, other.problem(size, cuts, alike, box=box, samples=2), dtype)
        r, missed = halfspace_projection(*given, 1)
        assert float(fulfilled(given, r, missed, 1e-6).max()) < 1e-6
        is_sparse(given, r, 1e-5)


@pytest.mark.parametrize(("size", "cuts"), [(3, 4), (4, 5), (6, 6)])
def test_the_1_norm_of_problems_that_hardly_fit(life, size, cuts):
    """As many half-spaces as entries: the ascent has to open the right entries, one by one."""
    given = on(life, other.problem(size, cuts, samples=100, seed=7))
    r, missed = halfspace_projection(*given, 1)
    # Multipliers grow where half-spaces nearly exclude one another, and what is added to the
    # products of these with them.
    assert float(fulfilled(given, r, missed, 1e-6).max()) < 1e-4
    is_sparse(given, r, 1e-4)


@pytest.mark.parametrize("p", [1.0, 2.0, INF])
def test_without_bounds_it_is_the_formula(life, p):
    low, high, w, c = on(life, other.problem(20, 1, box="none"))
    w, c = 3 * w, 3 * c.abs()
    r, _ = halfspace_projection(low, high, w, c, p)
    dual = torch.linalg.vector_norm(w[:, 0], {1: INF, 2: 2, INF: 1}[p], dim=1)
    length, rtol = torch.linalg.vector_norm(r, p, dim=1), {1: 0.02, 2: 1e-8, INF: 5.1e-4}[p]
    torch.testing.assert_close(length, c[:, 0] / dual, rtol=rtol, atol=0)


@pytest.mark.parametrize("p", [1.0, 2.0, INF])
def test_nothing_to_do(life, p):
    low, high, w, c = on(life, other.problem(20, 3))
    for bound in (-c.abs(), 0 * c):
        r, missed = halfspace_projection(low, high, w, bound, p)
        assert not bool(r.any())
        assert not bool(missed.any())


@pytest.mark.parametrize("p", [1.0, 2.0, INF])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_half_spaces_that_say_nothing(life, p, dtype):
    """A zero gradient, one that is no number, a bound that is none: as if they were not there."""
    low, high, w, c = on(life, other.problem(37, 2, 0.5), dtype)
    want = halfspace_projection(low, high, w, c, p)
    tiny = 1e-300 if dtype == torch.float64 else 1e-45
    least = torch.finfo(dtype).tiny / 100
    for row, bound in (
        (0.0, 1.0), (0.0, -INF), (NAN, 1.0), (INF, 1.0), (1.0, NAN), (1.0, -INF), (1.0, INF),
        (least, 1.0), (-tiny / 1e10, 1.0),
    ):  # fmt: skip
        odd = torch.full_like(w[:, :1], row)
        none = torch.full_like(c[:, :1], bound)
        for order in ([0, 1, 2], [1, 0, 2], [1, 2, 0]):
            rows, bounds = torch.cat([odd, w], 1)[:, order], torch.cat([none, c], 1)[:, order]
            got = halfspace_projection(low, high, rows, bounds, p)
            torch.testing.assert_close(got[0], want[0], rtol=1e-6, atol=1e-9)
            torch.testing.assert_close(got[1], want[1], rtol=0, atol=1e-6)
        r, missed = halfspace_projection(low, high, odd, none, p)
        assert not bool(r.any())
        assert not bool(missed.any())


@pytest.mark.parametrize("p", [1.0, 2.0, INF])
def test_parallel_half_spaces(life, p):
    """Of equal ones, or one before another, the farther one counts; opposite ones are a slab."""
    low, high, w, c = on(life, other.problem(37, 1))
    c = c.abs()
    want, _ = halfspace_projection(low, high, w, c, p)
    for rows, bounds in (
        ([w, w], [c, c]), ([w, w], [c, 0.9 * c]), ([w, 5 * w], [c, 4 * c]),
        ([w, -w], [c, -1.1 * c]), ([w] * 8, [c] * 8),
    ):  # fmt: skip
        r, missed = halfspace_projection(low, high, torch.cat(rows, 1), torch.cat(bounds, 1), p)
        torch.testing.assert_close(r, want, rtol=0, atol=1e-7 if p == 2 else 1e-3)
        assert float(missed.max()) < 1e-6


def test_none_that_fits(life):
    """The squares of what is missed add up to the least."""
    for size, cuts in ((5, 1), (37, 3), (12, 8)):
        low, high, w, _ = on(life, other.problem(size, cuts, 0.5, samples=2))
        c = torch.maximum(w * low[:, None], w * high[:, None]).sum(dim=2) * 1.1
        want = [other.least_squares(*one) for one in other.each((low, high, w, c))]
        for p in (1, 2):
            r, missed = halfspace_projection(low, high, w, c, p)
            assert bool(((r >= low) & (r <= high)).all())
            lacks = c - (w @ r[..., None])[..., 0]
            torch.testing.assert_close(missed, lacks.amax(1))
            got = lacks.square().sum(dim=1).cpu()
            torch.testing.assert_close(got, torch.tensor(want, dtype=torch.float64))
        few = halfspace_projection(low, high, w, c, 1)[0]
        assert torch.equal(few, r)  # there is nothing to keep small in the 1-norm
        flat, missed = halfspace_projection(low, high, w, c, INF)
        assert bool(((flat >= low) & (flat <= high)).all())
        assert float(missed.min()) > 0.01


def test_half_spaces_that_exclude_one_another(life):
    """Between two opposite ones r is in the middle, each by its own length, if the box allows."""
    low, high, w, _ = on(life, other.problem(37, 1, samples=2, box="none"))
    one = torch.ones_like(w[:, :1, 0])
    r, missed = halfspace_projection(
        low, high, torch.cat([w, -3 * w], 1), torch.cat([one, one * 3 * 2], 1)
    )
    torch.testing.assert_close(missed, 1.5 * one[:, 0], rtol=1e-6, atol=0)
    torch.testing.assert_close(r, -0.5 * w[:, 0], rtol=0, atol=1e-5)


@pytest.mark.parametrize("p", [1.0, 2.0, INF])
def test_samples_outside_of_the_box_may_stay(life, p):
    low, high, w, c = on(life, other.problem(37, 2))
    want = halfspace_projection(low.clamp(max=0), high.clamp(min=0), w, c, p)
    low, high = low.clone(), high.clone()
    low[:, :5], high[:, 5:9] = 0.0, 0.0
    want = halfspace_projection(low, high, w, c, p)
    assert bool((want[0][:, :5] >= 0).all())
    for odd in (1e-7, 0.3, NAN):
        low[:, :5], high[:, 5:9] = odd, -odd
        got = halfspace_projection(low, high, w, c, p)
        assert all(torch.equal(*pair) for pair in zip(got, want, strict=True))


@pytest.mark.parametrize("p", [1.0, 2.0, INF])
def test_units_play_no_part(life, p):
    """Of half-spaces each has its own; that of x is in r."""
    low, high, w, c = on(life, other.problem(37, 3, 0.9))
    want, missed = halfspace_projection(low, high, w, c, p)
    each = torch.tensor([1e-30, 1.0, 1e25], dtype=torch.float64, device=life.device)
    r, _ = halfspace_projection(low, high, w * each[:, None], c * each, p)
    torch.testing.assert_close(r, want, rtol=0, atol=1e-7)
    for unit in (255.0, 1e-12, 1e12):
        r, far = halfspace_projection(unit * low, unit * high, w, unit * c, p)
        torch.testing.assert_close(r / unit, want, rtol=0, atol=1e-7)
        torch.testing.assert_close(far / unit, missed, rtol=0, atol=1e-7)


@pytest.mark.parametrize("p", [1.0, 2.0, INF])
def test_layouts(life, p):
    given = on(life, other.problem(41, 3, 0.9))
    before = [t.clone() for t in given]
    want = halfspace_projection(*given, p)
    forms = [{"itself": t} | layouts(t) for t in given]
    forms[0]["expanded"], forms[1]["expanded"] = forms[0]["itself"], forms[1]["itself"]
    for keys in (["offset"] * 4, ["strided"] * 4, ["transposed"] * 4, ["itself", "offset"] * 2):
        moved = [form[key] for form, key in zip(forms, keys, strict=True)]
        for got, one in zip(halfspace_projection(*moved, p), want, strict=True):
            torch.testing.assert_close(got, one, rtol=0, atol=1e-9)
    assert all(torch.equal(*pair) for pair in zip(before, given, strict=True))
    bound = torch.full_like(given[0][:1], 0.5)
    wide = halfspace_projection((-bound).expand(4, -1), bound.expand(4, -1), *given[2:], p)
    same = halfspace_projection(-bound.repeat(4, 1), bound.repeat(4, 1), *given[2:], p)
    assert all(torch.equal(*pair) for pair in zip(wide, same, strict=True))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_tensors_may_start_between_boundaries(life, dtype):
    """Vector loads need an address that 16 bytes divide; each tensor has its own."""
    low, high, w, c = on(life, other.problem(48, 1, samples=1), dtype)
    want, _ = halfspace_projection(low, high, w, c)
    for offsets in ((0, 0, 0), (1, 1, 1), (0, 1, 0), (2, 0, 0), (0, 0, 3)):
        moved = [starting_at(t, k) for t, k in zip((low, high, w), offsets, strict=True)]
        torch.testing.assert_close(halfspace_projection(*moved, c)[0], want, rtol=0, atol=1e-6)


@pytest.mark.parametrize("shape", [(0, 3, 6), (3, 2, 0), (0, 1, 0)])
def test_empty(life, shape):
    samples, cuts, size = shape
    low, w = life.randn(samples, size), life.randn(samples, cuts, size)
    for p in (2, INF):
        r, missed = halfspace_projection(low, low, w, w.new_ones(samples, cuts).double(), p)
        assert r.shape == (samples, size)
        assert missed.shape == (samples,)
        assert not bool(missed.any())


@pytest.mark.parametrize("p", [1.0, 2.0, INF])
def test_same_bits_alone_in_any_batch_and_for_any_threads(life, threads, p):
    given = on(life, other.problem(1025, 3, 0.9, samples=9), torch.float32)
    want = halfspace_projection(*given, p)
    found = [halfspace_projection(*(t[4:5] for t in given), p)]
    for count in (2,) if life.name == "reference" else (1, 2, 2):
        threads(count)
        found.append([t[4:5] for t in halfspace_projection(*given, p)])
    for got in found:
        for one, true in zip(got, want, strict=True):
            if life.name == "reference":  # matrix products depend on the batch and on threads
                torch.testing.assert_close(one, true[4:5], rtol=0, atol=1e-7)
            else:
                assert torch.equal(one, true[4:5])


@pytest.mark.parametrize("p", [1.0, 2.0, INF])
def test_agrees_with_pytorch(life, p, monkeypatch):
    """On rows that end between packs, and with more half-spaces than the form for few has."""
    if life.name == "reference":
        pytest.skip("that is the reference")
    for size, cuts in ((1, 1), (2, 3), (31, 4), (33, 1), (33, 6), (129, 3), (257, 4)):
        given = on(life, other.problem(size, cuts, 0.5, samples=2, seed=size))
        got = halfspace_projection(*given, p)
        with monkeypatch.context() as patch:
            patch.setattr(lives, "IMPL", "reference")
            want = halfspace_projection(*given, p)
        for one, true in zip(got, want, strict=True):
            torch.testing.assert_close(one, true, rtol=0, atol=1e-5)


@settings(
    derandomize=True,
    deadline=None,
    max_examples=25,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    size=st.integers(1, 40),
    cuts=st.integers(1, 5),
    alike=st.sampled_from([0.0, 0.5, 0.99, 1.0]),
    box=st.sampled_from(["inside", "corner", "none"]),
    seed=st.integers(0, 1000),
)
def test_any_problem(life, size, cuts, alike, box, seed):
    given = on(life, other.problem(size, cuts, alike, box=box, seed=seed, samples=2))
    r, missed = halfspace_projection(*given)
    assert float(fulfilled(given, r, missed, 1e-7).max()) < 1e-6
    flat, missed = halfspace_projection(*given, INF)
    assert float(fulfilled(given, flat, missed, 1e-5).max()) < 1e-5
    assert bool((flat.abs().amax(1) <= 1.00051 * r.abs().amax(1) + 1e-9).all())
    assert bool((r.norm(dim=1) <= flat.norm(dim=1) * (1 + 1e-5) + 1e-9).all())
    few, missed = halfspace_projection(*given, 1)
    assert float(fulfilled(given, few, missed, 1e-6).max()) < 1e-4
    assert bool((few.abs().sum(1) <= r.abs().sum(1) * (1 + 1e-6) + 1e-9).all())
