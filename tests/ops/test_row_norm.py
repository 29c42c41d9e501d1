"""row_norm in every life, against sums in float64."""

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jacfast.ops import lives, row_norm
from jacfast.ops.row_norm import KINDS
from tests.testing import (
    DTYPES,
    LONG,
    OP_ERRORS,
    SIZES,
    assert_close,
    layouts,
    not_emulated,
    starting_at,
)

NAN, INF = float("nan"), float("inf")


def oracle(g: torch.Tensor, kind: str) -> torch.Tensor:
    wide = g.detach().double().abs().cpu()
    if kind == "sumsq":
        return torch.stack([torch.dot(row, row) for row in wide]) if len(wide) else wide.sum(1)
    return (
        wide.sum(dim=1) if kind == "sumabs" else wide.max(dim=1).values if len(wide) else wide[:, 0]
    )


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_sizes_and_dtypes(life, kind, dtype):
    for size in (*SIZES, *LONG):
        g = life.randn(3, size, seed=size, dtype=dtype)
        before = g.clone()
        value = row_norm(g, kind)
        acc = torch.float64 if dtype == torch.float64 else torch.float32
        assert value.dtype == acc
        assert value.device == g.device
        assert value.is_contiguous()
        assert_close(value, oracle(g, kind), acc)
        assert torch.equal(g, before)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rows", [1, 3])
def test_long_rows_keep_full_precision(life, kind, rows):
    g = life.randn(rows, 150_528) + 0.5
    got, want = row_norm(g, kind).double().cpu(), oracle(g, kind)
    assert float((got / want - 1).abs().max()) <= 2 * torch.finfo(torch.float32).eps


@pytest.mark.parametrize("kind", KINDS)
def test_empty_and_one(life, kind):
    assert row_norm(life.randn(0, 5), kind).shape == (0,)
    assert row_norm(life.tensor([[-3.0]]), kind).item() == (9 if kind == "sumsq" else 3)


@pytest.mark.parametrize("kind", ["sumabs", "maxabs"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_the_smallest_of_half_types_count(life, dtype, kind):
    info = torch.finfo(dtype)
    least = info.smallest_normal * info.eps
    g = life.tensor([[least, -3 * least, 0.0], [-least, info.smallest_normal, least]], dtype=dtype)
    assert row_norm(g, kind).tolist() == oracle(g, kind).tolist()


@pytest.mark.parametrize("kind", KINDS)
def test_layouts(life, kind):
    g = life.randn(5, 67)
    want = row_norm(g, kind)
    for name, other in layouts(g).items():
        assert torch.equal(row_norm(other, kind), want), name
    expanded = g[:1].expand(4, 67)
    assert torch.equal(row_norm(expanded, kind), want[:1].expand(4))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_rows_may_start_between_boundaries(life, kind, dtype):
    """Vector loads need an address that 16 bytes divide: the entries before it go one by one."""
    for size in (1, 2, 5, 8, 41):
        for offset in range(9):
            g = starting_at(life.randn(3, size, dtype=dtype), offset)
            acc = torch.float64 if dtype == torch.float64 else torch.float32
            assert_close(row_norm(g, kind), oracle(g, kind), acc)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("size", "at"), [(1, 0), (5, 2), (40, 39), (9000, 5), (9000, 8999)])
def test_nan_stays_in_its_row(life, kind, size, at):
    g = life.randn(3, size)
    want = row_norm(g, kind)
    g[1, at] = NAN
    value = row_norm(g, kind)
    assert value[1].isnan()
    assert torch.equal(value[::2], want[::2])
    g[1, at] = -INF
    assert row_norm(g, kind)[1] == INF


@pytest.mark.parametrize("at", [0, 4500, 8191, 8999])
def test_the_place_of_the_maximum_in_a_long_row(life, at):
    """Long rows are measured in parts: the place must be that in the row."""
    g = life.randn(2, 9000)
    g[1, at] = -7.0
    g.requires_grad_()
    (grad,) = torch.autograd.grad(row_norm(g, "maxabs")[1], g)
    assert grad.nonzero().tolist() == [[1, at]]
    assert grad[1, at] == -1


@pytest.mark.parametrize("size", [9, 300, 9000])
def test_the_first_of_equal_maxima_counts(life, size):
    """Wherever the others are: in the same pack, with another thread, warp or part."""
    for first, *others in ((0, 1), (2, size - 1), (3, 4, 5), (1, size // 2, size - 2), (7, 8)):
        g = life.randn(1, size, seed=first).clamp(-4, 4)
        g[0, [first, *others]] = -7.0
        g.requires_grad_()
        (grad,) = torch.autograd.grad(row_norm(g, "maxabs").sum(), g)
        assert grad[0].nonzero().flatten().tolist() == [first]


def test_squares_do_not_underflow(life):
    """Of 3e-21 the square is no normal number of float32, but the sum of ten thousand is."""
    for value, count in ((1e-18, 300), (3e-21, 10_000)):
        g = life.tensor([[value] * count])
        want = count * g[0, 0].double().item() ** 2
        assert row_norm(g, "sumsq").item() == pytest.approx(want, rel=3e-7, abs=0)


@not_emulated
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [1, 7, 33])
def test_derivatives(life, kind, size):
    g = life.randn(3, size, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(lambda g: row_norm(g, kind), g)
    assert torch.autograd.gradgradcheck(lambda g: row_norm(g, kind), g)


@pytest.mark.parametrize("kind", KINDS)
def test_derivative_at_zeros_and_ties(life, kind):
    g = life.tensor([[0.0, 0.0, 0.0], [-2.0, 2.0, 1.0]]).requires_grad_()
    (grad,) = torch.autograd.grad(row_norm(g, kind).sum(), g)
    want = {
        "sumsq": [[0, 0, 0], [-4, 4, 2]],
        "sumabs": [[0, 0, 0], [-1, 1, 1]],
        "maxabs": [[0, 0, 0], [-1, 0, 0]],
    }
    assert grad.tolist() == want[kind]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_gradients_of_half_types_have_their_dtype(life, dtype):
    g = life.randn(2, 9, dtype=dtype).requires_grad_()
    (grad,) = torch.autograd.grad(row_norm(g, "sumsq").sum(), g)
    assert grad.dtype == dtype
    assert torch.equal(grad, 2 * g)


@pytest.mark.parametrize("weight", [1e-8, 1e5])
def test_gradients_of_half_types_take_any_weight_in_float32(life, weight):
    """The weight has no place in float16, its product with the derivative 2 g has."""
    g = (life.randn(2, 9) / weight**0.5).to(torch.float16).requires_grad_()
    (grad,) = torch.autograd.grad(row_norm(g, "sumsq").sum() * weight, g)
    want = (2 * weight * g.detach().double()).to(torch.float16)
    assert torch.allclose(grad, want, rtol=2e-3, atol=0)


@not_emulated
@pytest.mark.parametrize("kind", KINDS)
def test_same_bits_each_time_and_for_any_threads(life, kind, threads):
    g = life.randn(2, 100_000)
    values = []
    for count in (1, 2, 2, 1):
        threads(count)
        values.append(row_norm(g, kind))
    if life.name == "reference":  # torch.sum itself depends on the number of threads
        values = values[::3]
    assert all(torch.equal(value, values[0]) for value in values)


@settings(
    derandomize=True, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(rows=st.integers(0, 20), size=st.integers(1, 300), kind=st.sampled_from(KINDS))
def test_any_shape(life, rows, size, kind):
    g = life.randn(rows, size, seed=rows * 1000 + size)
    assert_close(row_norm(g, kind), oracle(g, kind), torch.float32)


@pytest.mark.parametrize(
    ("g", "kind", "error", "message"),
    [
        (
            torch.ones(3),
            "sumsq",
            ValueError,
            r"g must have shape \[R, D\] = \[any, any\]; got \[3\]",
        ),
        (torch.ones(3, 0), "sumsq", ValueError, r"at least one column; got \[3, 0\]"),
        (torch.ones(3, 2).long(), "sumsq", TypeError, r"g must be float32.*; got torch.int64"),
        ([[1.0]], "sumsq", TypeError, r"g must be a torch.Tensor; got list"),
        (torch.ones(3, 2), "norm", ValueError, "kind must be one of sumsq.*; got 'norm'"),
    ],
)
def test_errors(life, g, kind, error, message):
    with pytest.raises(error, match=message):
        row_norm(g.to(life.device) if isinstance(g, torch.Tensor) else g, kind)


@pytest.mark.skipif(not lives.BUILT, reason="the extension is not built")
@pytest.mark.parametrize("kind", KINDS)
def test_registration(kind):
    for g in (torch.randn(3, 5), torch.randn(3, 5, dtype=torch.float64).requires_grad_()):
        torch.library.opcheck(torch.ops.jacfast.row_norm.default, (g, kind))
    with pytest.raises(OP_ERRORS, match="g must have 2 dimensions"):
        torch.ops.jacfast.row_norm(torch.ones(3), kind)


@not_emulated
@pytest.mark.parametrize("kind", KINDS)
def test_compiled(life, kind):
    def measured(g):
        return row_norm(g * 2, kind).sum()

    g = life.randn(4, 9).requires_grad_()
    torch._dynamo.reset()
    compiled = torch.compile(measured, fullgraph=True, backend="aot_eager")
    (want,), (got,) = (torch.autograd.grad(f(g), g) for f in (measured, compiled))
    assert_close(got, want, torch.float32)
