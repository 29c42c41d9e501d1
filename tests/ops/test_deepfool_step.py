"""deepfool_step in every life, against plain loops in float64."""

import math

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jacfast.ops import deepfool_step, lives
from tests.testing import (
    DTYPES,
    LONG,
    OP_ERRORS,
    SIZES,
    TOLERANCE,
    Life,
    assert_close,
    layouts,
    not_emulated,
    starting_at,
)

NAN, INF = float("nan"), float("inf")


def problem(life: Life, samples: int, classes: int, size: int, dtype=torch.float32, seed: int = 0):
    logits = life.randn(samples, classes, seed=seed, dtype=dtype)
    rows = life.randn(samples, classes, size, seed=seed + 1, dtype=dtype)
    origin = torch.arange(samples, device=life.device) % classes
    return logits, rows, origin


def oracle(logits, rows, origin, floor=0.0):
    """The definition, one class after the other, in Python floats and float64 tensors."""
    steps, winners, distances = [], [], []
    smallest = torch.finfo(torch.float64 if rows.dtype == torch.float64 else torch.float32).tiny
    for z, jacobian, o in zip(logits.cpu(), rows.cpu(), origin.tolist(), strict=True):
        best, winner, step = INF, -1, torch.zeros(jacobian.shape[1], dtype=torch.float64)
        for k in range(len(z)):
            w = jacobian[k].double() - jacobian[o].double()
            norm, f = float(w.norm()), abs(float(z[k].double() - z[o].double()))
            if k == o or not math.isfinite(norm) or norm <= smallest or not math.isfinite(f):
                continue
            if f / norm < best:
                best, winner, step = f / norm, k, (f / norm + floor) * w / norm
        steps.append(step)
        winners.append(winner)
        distances.append(best)
    return torch.stack(steps), torch.tensor(winners), torch.tensor(distances, dtype=torch.float64)


def check(got, want, dtype):
    (r, winner, distance), (r_want, winner_want, distance_want) = got, want
    assert r.dtype == dtype
    assert distance.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert r.is_contiguous()
    assert winner.tolist() == winner_want.tolist()
    acc = TOLERANCE[distance.dtype] * 10  # f is a difference of rounded logits
    torch.testing.assert_close(distance.double().cpu(), distance_want, rtol=acc, atol=0)
    # One step is one direction: compare with its own length.
    bound = 10 * TOLERANCE[dtype] * r_want.norm(dim=1, keepdim=True)
    assert bool(((r.double().cpu() - r_want).abs() <= bound).all())


@pytest.mark.parametrize("samples", [1, 7, 8])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_norms_are_rows_of_one_entry(life, samples, dtype):
    """As the search in another norm has them, one row of memory a class; the origin's are 0."""
    norms = life.randn(6, samples, dtype=dtype).abs()
    norms[-1], norms[1] = 0, INF
    last = torch.full((samples,), 5, device=life.device)
    logits, rows = life.randn(samples, 6, seed=1, dtype=dtype), norms.T[..., None]
    got = deepfool_step(logits, rows, last)
    check(got, oracle(logits, rows, last), dtype)
    distances = (logits - logits[:, -1:]).abs()[:, [0, 2, 3, 4]] / norms.T[:, [0, 2, 3, 4]]
    torch.testing.assert_close(got[2], distances.amin(dim=1), rtol=1e-6, atol=0)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_sizes_and_dtypes(life, dtype):
    for size in (*SIZES, *LONG):
        logits, rows, origin = problem(life, 3, 4, size, dtype, seed=size)
        copies = [t.clone() for t in (logits, rows, origin)]
        check(deepfool_step(logits, rows, origin), oracle(logits, rows, origin), dtype)
        assert all(torch.equal(a, b) for a, b in zip((logits, rows, origin), copies, strict=True))


@pytest.mark.parametrize(("samples", "classes"), [(1, 2), (2, 10), (33, 3), (5, 11), (4, 257)])
def test_samples_and_classes(life, samples, classes):
    logits, rows, origin = problem(life, samples, classes, 70)
    check(deepfool_step(logits, rows, origin), oracle(logits, rows, origin), torch.float32)


@pytest.mark.parametrize("samples", [1, 3])
def test_image_sized(life, samples):
    logits, rows, origin = problem(life, samples, 3, 150_528)
    check(deepfool_step(logits, rows, origin), oracle(logits, rows, origin), torch.float32)


def test_floor_is_a_length(life):
    logits, rows, origin = problem(life, 6, 4, 20, torch.float64)
    plain, floored = deepfool_step(logits, rows, origin), deepfool_step(logits, rows, origin, 0.25)
    gained = floored[0].norm(dim=1) - plain[0].norm(dim=1)
    torch.testing.assert_close(gained, torch.full_like(gained, 0.25))
    assert torch.equal(plain[2], floored[2])


def test_empty(life):
    logits, rows, origin = problem(life, 0, 4, 20)
    r, winner, distance = deepfool_step(logits, rows, origin)
    assert (r.shape, winner.shape, distance.shape) == ((0, 20), (0,), (0,))


def test_every_origin(life):
    logits, rows, _ = problem(life, 1, 6, 9)
    for k in range(6):
        origin = torch.tensor([k], device=life.device)
        check(deepfool_step(logits, rows, origin), oracle(logits, rows, origin), torch.float32)


def test_ties_go_to_the_lowest_class(life):
    rows = life.tensor([[[0.0, 0.0], [0.0, 2.0], [2.0, 0.0], [0.0, -2.0]]])
    for origin, winner in ((0, 1), (2, 1), (3, 0)):
        o = torch.tensor([origin], device=life.device)
        logits = torch.full((1, 4), 1.0, device=life.device)
        logits[0, origin] = 2.0
        found = deepfool_step(logits, rows, o)[1].item()
        distances = (rows[0] - rows[0, origin]).norm(dim=1).tolist()
        ties = [k for k in range(4) if k != origin and distances[k] == max(distances)]
        assert found == min(ties), winner


@pytest.mark.parametrize("case", ["one class", "equal rows", "tiny rows", "nan logits", "inf rows"])
def test_stalled(life, case):
    logits, rows, origin = problem(life, 3, 1 if case == "one class" else 3, 40)
    if case == "equal rows":
        rows[1] = rows[1, :1]
    elif case == "tiny rows":
        rows[1] = torch.tensor([[1.0], [2], [3]]) * torch.finfo(torch.float32).tiny / 40
        logits[1] = 1.0  # a tie: only the norm stands in the way of distance 0
    elif case == "nan logits":
        logits[1] = NAN
    elif case == "inf rows":
        rows[1, :, 3] = INF
    origin = torch.zeros_like(origin)
    got = deepfool_step(logits, rows, origin, 0.5)
    assert (got[1][1].item(), got[2][1].item()) == (-1, INF)
    assert torch.equal(got[0][1], torch.zeros_like(got[0][1]))
    check(got, oracle(logits, rows, origin, 0.5), torch.float32)


def test_bad_classes_are_skipped_and_bad_samples_stay_alone(life):
    logits, rows, origin = problem(life, 4, 5, 33)
    origin = torch.zeros_like(origin)
    logits[1, 2] = NAN
    rows[2, 1, 7] = NAN
    rows[3, 4] = INF
    check(deepfool_step(logits, rows, origin), oracle(logits, rows, origin), torch.float32)


@pytest.mark.parametrize("scale", [1e-30, 1e-36, 1e17])
def test_scales_whose_squares_leave_float32(life, scale):
    logits, rows, origin = problem(life, 3, 4, 40)
    rows = rows * scale
    logits = logits * min(scale, 1.0)  # so that the distance fits
    check(deepfool_step(logits, rows, origin), oracle(logits, rows, origin), torch.float32)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_results_are_rounded_to_nearest_even(life, dtype):
    """Steps of 1 + eps/2 and 1 + 3 eps/2 lie halfway between two numbers."""
    half = torch.finfo(dtype).eps / 2
    rows = life.tensor([[[0.0, 0.0], [1.0, 0.0]]] * 2, dtype=dtype)
    logits = life.tensor([[-half, 1.0], [-3 * half, 1.0]], dtype=dtype)
    origin = torch.zeros(2, dtype=torch.int64, device=life.device)
    r, _, distance = deepfool_step(logits, rows, origin)
    assert distance.tolist() == [1 + half, 1 + 3 * half]
    assert r[:, 0].tolist() == [1.0, 1 + 4 * half]


def test_layouts(life):
    logits, rows, origin = problem(life, 4, 3, 66)
    want = deepfool_step(logits, rows, origin)
    views = layouts(rows)
    views["classes first"] = rows.transpose(0, 1).contiguous().transpose(0, 1)
    for name, view in views.items():
        got = deepfool_step(layouts(logits)["strided"], view, origin)
        assert all(torch.equal(a, b) for a, b in zip(got, want, strict=True)), name
    one = rows[:1].expand(4, -1, -1)
    same = deepfool_step(logits[:1].expand(4, -1), one, origin[:1].expand(4))
    assert torch.equal(same[0], want[0][:1].expand(4, -1))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_rows_may_start_between_boundaries(life, dtype):
    for size in (1, 2, 5, 8, 41):
        logits, rows, origin = problem(life, 3, 4, size)
        logits, rows = logits.to(dtype), rows.to(dtype)
        want = deepfool_step(logits, rows, origin)
        for offset in range(9):
            got = deepfool_step(logits, starting_at(rows, offset), origin)
            assert torch.equal(got[1], want[1])
            for a, b in ((got[0], want[0]), (got[2], want[2])):
                assert_close(a, b, dtype)


@not_emulated
def test_derivatives(life):
    logits, rows, origin = problem(life, 3, 4, 5, torch.float64)
    logits.requires_grad_()
    rows.requires_grad_()

    def step(logits, rows):
        r, _, distance = deepfool_step(logits, rows, origin, 0.1)
        return r, distance

    assert torch.autograd.gradcheck(step, (logits, rows))
    assert torch.autograd.gradgradcheck(step, (logits, rows))


def test_derivatives_of_a_stalled_sample_are_zero(life):
    logits, rows, origin = problem(life, 2, 3, 5, torch.float64)
    rows[0] = 1.0
    rows.requires_grad_()
    r, _, _ = deepfool_step(logits, rows, origin)
    (grad,) = torch.autograd.grad(r.sum(), rows)
    assert grad[0].abs().max() == 0
    assert grad.isfinite().all()
    assert grad[1].abs().max() > 0


@not_emulated
def test_same_bits_each_time_and_for_any_threads(life, threads):
    logits, rows, origin = problem(life, 3, 4, 9000)
    results = []
    for count in (1, 2, 2, 1):
        threads(count)
        results.append(deepfool_step(logits, rows, origin))
    if life.name == "reference":  # torch's own norm depends on the number of threads
        results = results[::3]
    assert all(torch.equal(a, b) for r in results for a, b in zip(r, results[0], strict=True))


@settings(
    derandomize=True, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(n=st.integers(0, 9), c=st.integers(1, 12), d=st.integers(1, 200), floor=st.floats(0, 1))
def test_any_shape(life, n, c, d, floor):
    logits, rows, origin = problem(life, n, c, d, seed=n + 10 * c + 1000 * d)
    if n:
        check(
            deepfool_step(logits, rows, origin, floor),
            oracle(logits, rows, origin, floor),
            torch.float32,
        )


Z, J, O = torch.ones(2, 3), torch.ones(2, 3, 4), torch.zeros(2, dtype=torch.int64)  # noqa: E741


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((Z[0], J, O), ValueError, r"logits must have shape \[N, C\]"),
        ((Z[:, :0], J[:, :0], O), ValueError, "logits must have at least one class"),
        ((Z.long(), J, O), TypeError, "logits must be float32"),
        ((Z, J[0], O), ValueError, r"rows must have shape \[N, C, D\] = \[2, 3, any\]"),
        ((Z, J[:, :2], O), ValueError, r"= \[2, 3, any\]; got \[2, 2, 4\]"),
        ((Z, J.double(), O), TypeError, r"rows must have the dtype of logits .*float32.*float64"),
        ((Z, J, O.int()), TypeError, "origin must be an int64 tensor; got torch.int32"),
        ((Z, J, O[:1]), ValueError, r"origin must have shape \[N\] = \[2\]; got \[1\]"),
        ((Z, J, O + 3), ValueError, r"origin must lie in 0 .. C - 1 = 2; got 3 .. 3"),
        ((Z, J, O - 1), ValueError, r"got -1 .. -1"),
        ((Z, J, O, -1.0), ValueError, "floor must be finite and >= 0; got -1.0"),
        ((Z, J, O, NAN), ValueError, "floor must be finite and >= 0; got nan"),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_errors(life, arguments, error, message):
    if life.name == "cuda" and "lie in" in message:
        pytest.skip("values on a GPU are not looked at: that would synchronise; they stall")
    moved = [a.to(life.device) if isinstance(a, torch.Tensor) else a for a in arguments]
    with pytest.raises(error, match=message):
        deepfool_step(*moved)


@pytest.mark.skipif(not lives.BUILT, reason="the extension is not built")
def test_registration():
    torch.library.opcheck(torch.ops.jacfast.deepfool_step.default, (Z, torch.rand(2, 3, 4), O, 0.0))
    out = torch.ops.jacfast.deepfool_step(
        Z, J, O + 3, 0.0
    )  # unchecked: stalls, reads no stray byte
    assert out[1].tolist() == [-1, -1]
    with pytest.raises(OP_ERRORS, match="rows must have shape"):
        torch.ops.jacfast.deepfool_step(Z, J[:, :2], O, 0.0)
