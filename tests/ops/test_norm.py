"""norm_first and norm_second in every life, against float64 autograd and finite differences."""

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jacfast.ops import norm_first, norm_second
from tests.ops.norms import CASES, oracle
from tests.testing import DTYPES, SIZES, assert_close, largest, layouts, not_emulated, starting_at

NAN, EPS = float("nan"), 1e-5


def both(name, x, g, u, weight, eps=EPS, parameters=True):
    """Return what `oracle` returns, of the ops."""
    case = CASES[name]
    options = {"centred": case.centred, "parameters": parameters}
    groups = case.groups(x.shape[1])
    first = norm_first(x, g, weight, eps, groups, **options)
    return *first, *norm_second(x, g, u, weight, eps, groups, **options)


def drawn(life, *shape, seed=0, dtype=torch.float32):
    """Return x, g, u, each with a mean, and a weight."""
    three = (life.randn(*shape, seed=3 * seed + k, dtype=dtype) + k / 2 for k in range(3))
    return *three, 1 + life.randn(shape[1], seed=seed, dtype=dtype) / 2


def check(name, x, g, u, weight, eps=EPS):
    found = both(name, x, g, u, weight, eps)
    true = oracle(name, x, g, u, weight, eps)
    terms = max(map(largest, true))
    for k, (got, want) in enumerate(zip(found, true, strict=True)):
        sums = k in (1, 2, 5)  # of the parameters
        wide = x.dtype in (torch.float64, torch.float32)
        assert got.dtype == (x.dtype if wide or not sums else torch.float32)
        assert got.device == x.device
        assert got.shape == ((x.shape[1],) if sums else x.shape)
        assert_close(got, want, x.dtype, terms if sums else 0.0)
    return found


@pytest.mark.parametrize("name", ["layer", "rms"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_rows_of_entries(life, name, dtype):
    for size in (*SIZES[2:], 1025, 4097):
        x, g, u, weight = drawn(life, 3, size, seed=size, dtype=dtype)
        before = x.clone(), g.clone(), u.clone(), weight.clone()
        check(name, x, g, u, weight)
        if size in (7, 33, 129, 1025):  # ends of a pack, of a warp, of a block, and turns of one
            check(name, x, g, u, None)
        assert all(torch.equal(*p) for p in zip(before, (x, g, u, weight), strict=True))


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_channels(life, name, dtype):
    shapes = (4, 6, 5), (3, 3, 4, 4), (2, 9, 7, 1), (2, 1, 3, 1, 2), (1, 6, 33), (1, 3, 1025)
    for shape in shapes:
        check(name, *drawn(life, *shape, dtype=dtype))
    check(name, *drawn(life, *shapes[0], dtype=dtype)[:3], None)


def test_groups_of_entries(life):
    """GroupNorm of what has no place: [N, C]; of rows of two entries only roundings are left."""
    for channels in (9, 12, 300):
        check("group", *drawn(life, 5, channels))


@pytest.mark.parametrize("name", ["layer", "group"])
def test_many_samples(life, name):
    """More than one part of them, and parts of different sizes: 55 and 56, 127 and 128."""
    for shape in ((111, 300), (383, 129), (79, 6, 70)):
        check(name, *drawn(life, *shape))


@pytest.mark.parametrize("name", CASES)
def test_layouts(life, name):
    x, g, u, weight = drawn(life, 3, 6, 4, 7)
    want = both(name, x, g, u, weight)
    other = [layouts(t) | {"last": t.to(memory_format=torch.channels_last)} for t in (x, g, u)]
    for key in other[0]:
        mixed = [(other[0][key], g, u), (x, other[1][key], other[2][key])]
        for three in mixed:
            found = both(name, *three, torch.stack([weight] * 2, 1)[:, 0])
            for got, one in zip(found, want, strict=True):
                torch.testing.assert_close(got, one, rtol=1e-6, atol=1e-6)


def test_an_expanded_cotangent(life):
    x, g, u, weight = drawn(life, 3, 9)
    got = both("layer", x, g[:1].expand(3, 9), u[:, :1].expand(3, 9), weight)
    want = both("layer", x, g[:1].repeat(3, 1), u[:, :1].repeat(1, 9), weight)
    assert all(torch.equal(*pair) for pair in zip(got, want, strict=True))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", ["layer", "group"])
def test_tensors_may_start_between_boundaries(life, name, dtype):
    """Vector loads need an address that 16 bytes divide; each tensor has its own."""
    shape = (1, 41) if name == "layer" else (1, 6, 9)
    x, g, u, weight = drawn(life, *shape, dtype=dtype)
    flat = [t.reshape(1, -1) for t in (x, g, u)]
    for offsets in ((0, 0, 0), (3, 3, 3), (0, 1, 0), (2, 2, 0), (1, 0, 1)):
        pairs = zip(flat, offsets, strict=True)
        moved = [starting_at(t, offset).view(shape) for t, offset in pairs]
        check(name, *moved, weight)


@pytest.mark.parametrize("name", ["layer", "group", "instance"])
@pytest.mark.parametrize("shift", [(1000, 0, 0), (1e5, 0, 0), (0, 100, 0), (0, 0, 100)])
def test_a_mean_beside_which_the_rest_is_small(life, name, shift):
    """That of x is taken off in more digits than its own dtype has; cotangents lose these two.

    Not so u in the weight's second derivative, but on a CPU.
    """
    x, g, u, weight = drawn(life, 4, 6, 50)
    three = [t + by for t, by in zip((x, g, u), shift, strict=True)]
    pairs = zip(both(name, *three, weight), oracle(name, *three, weight, EPS), strict=True)
    for k, (got, want) in enumerate(pairs):
        error = (got.double().cpu() - want).abs().max() / want.abs().max()
        kept = shift[0] or (k == 5 and shift[2] and life.name != "cpu")
        assert float(error) < (3e-6 if kept else 3e-5)


@pytest.mark.parametrize("name", ["layer", "group", "instance"])
def test_a_mean_whose_square_has_no_digits_for_the_rest(life, name):
    """Statistics are sums of differences, in float64 as well; all is as without that mean."""
    x, g, u, weight = drawn(life, 4, 6, 50, dtype=torch.float64)
    x += 1e6
    true = oracle(name, x - 1e6, g, u, weight, EPS)
    for got, want in zip(both(name, x, g, u, weight), true, strict=True):
        assert float((got.cpu() - want).abs().max() / want.abs().max()) < 1e-8


@pytest.mark.parametrize(("name", "shape"), [("layer", (9000, 3)), ("group", (3000, 3, 7))])
def test_sums_over_samples_keep_what_additions_round_off(life, name, shape):
    """Of thousands of terms that are alike; added in float32, the sum has five digits.

    Each term is a sum itself, rounded in every life, and all are rounded alike.
    """
    x, g, u, weight = drawn(life, *shape)
    for t in (x, g, u):
        t[:] = t[0].clone()
    found, want = both(name, x, g, u, weight), oracle(name, x, g, u, weight, EPS)
    in_float32 = g.cpu().numpy().cumsum(axis=0, dtype="float32")[-1]
    exact = len(g) * g[0].cpu().double()
    assert float((torch.from_numpy(in_float32) - exact).abs().max() / exact.abs().max()) > 3e-6
    for k in (1, 2, 5):
        error = (found[k].cpu().double() - want[k]).abs().max() / want[k].abs().max()
        assert float(error) < 1.5e-6


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_long_rows_keep_what_additions_round_off(life, dtype):
    """Their mean, 100, is taken off the cotangents: what is left is a hundredth of it."""
    x, g, u, _ = drawn(life, 2, 40_001, dtype=torch.float64)
    g, u = (100 + t.abs() for t in (g, u))
    three = [t.to(dtype) for t in (x, g, u)]
    check("layer", *three, None)


@pytest.mark.parametrize(
    ("scales", "dtype"),
    [
        ((1e-6, 3e-38, 1.0), torch.float32),  # their products are none in float32
        ((1e-6, 1.0, 3e-38), torch.float32),
        ((1e10, 1e30, 1.0), torch.float32),  # and theirs are infinite
        ((1e10, 1.0, 1e30), torch.bfloat16),
        ((1.0, 1e-20, 1e-16), torch.bfloat16),
    ],
)
@pytest.mark.parametrize("shape", [(3, 70), (2, 6, 300)])
def test_rows_of_other_sizes(life, scales, dtype, shape):
    three = drawn(life, *shape, dtype=torch.float64)[:3]
    three = [(t * scale).to(dtype) for t, scale in zip(three, scales, strict=True)]
    check("group", *three, None, 0.0)


@pytest.mark.parametrize("shape", [(4, 9), (4, 6, 5)])
def test_an_infinite_cotangent_makes_infinite_sums(life, shape):
    x, g, u, weight = drawn(life, *shape)
    g[1, 2] = float("inf")
    _, of_weight, of_bias, *_ = both("layer", x, g, u, weight)
    assert of_bias.isinf().nonzero().tolist() == [[2]]
    assert len(shape) > 2 or of_weight.isinf().nonzero().tolist() == [[2]]
    assert not of_bias.isnan().any()


@pytest.mark.parametrize("name", CASES)
def test_errors_are_no_larger_than_pytorchs(life, name):
    """Of float32 autograd, whose statistics are in float32."""
    x, g, u, weight = drawn(life, 16, 6, 50)
    want = oracle(name, x, g, u, weight, EPS)
    found = both(name, x, g, u, weight)
    narrow = [t.cpu().requires_grad_() for t in (x, g, weight)]
    y = CASES[name].run(narrow[0], narrow[2], torch.zeros(6).requires_grad_(), EPS)
    (first,) = torch.autograd.grad(y, narrow[0], narrow[1], create_graph=True)
    second = torch.autograd.grad(first, narrow, u.cpu())
    for stock, k in zip((first, *second), (0, 3, 4, 5), strict=True):
        ours, theirs = ((t.detach().cpu().double() - want[k]).norm() for t in (found[k], stock))
        assert float(ours) <= 2 * float(theirs) + 1e-7 * float(want[k].norm())


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("eps", [0.0, 1e-12, 1.0])
def test_other_eps(life, name, eps):
    check(name, *drawn(life, 4, 6, 5), eps)


def test_rows_without_variance(life):
    """What is beside eps is nothing; without eps it is no number, as in PyTorch."""
    x, g, u, weight = drawn(life, 2, 40, dtype=torch.float64)
    x[0] = 3.0
    check("layer", x, g, u, weight)
    of_x, *_ = both("layer", x, g, u, weight, 0.0)
    assert of_x[0].isnan().all()
    assert of_x[1].isfinite().all()


@pytest.mark.parametrize("which", range(3))
@pytest.mark.parametrize("shape", [(4, 40), (4, 6, 5)])
def test_nan_stays_in_its_row(life, which, shape):
    three, weight = list(drawn(life, *shape)[:3]), None
    want = both("layer", *three, weight)
    three[which][1].view(-1)[7] = NAN
    found = both("layer", *three, weight)
    for k in (0, 3, 4):
        assert torch.equal(found[k][[0, 2, 3]], want[k][[0, 2, 3]])
    assert found[3][1].isnan().all()
    assert which == 1 or found[4][1].isnan().all()  # g does not enter its own derivative


@pytest.mark.parametrize("name", CASES)
def test_by_finite_differences(life, name):
    """The second derivative is that of the first one, in x, g and weight."""
    x, g, u, weight = drawn(life, 3, 6, 5, dtype=torch.float64)
    case, step = CASES[name], 1e-6
    groups = case.groups(6)
    second = norm_second(x, g, u, weight, EPS, groups, centred=case.centred, parameters=True)
    for k, derivative in enumerate(second):
        towards = life.randn(*derivative.shape, seed=9, dtype=torch.float64)

        def along(sign, k=k, towards=towards):
            moved = [x, g, weight]
            moved[k] = moved[k] + sign * step * towards
            return (norm_first(*moved, EPS, groups, centred=case.centred)[0] * u).sum()

        slope = float(along(1) - along(-1)) / (2 * step)
        assert float((derivative * towards).sum()) == pytest.approx(slope, rel=1e-7)


@not_emulated
@pytest.mark.parametrize("name", CASES)
def test_third_derivatives(life, name):
    x, g, u, weight = (t.requires_grad_() for t in drawn(life, 2, 6, 2, dtype=torch.float64))
    case = CASES[name]

    def second(x, g, u, weight):
        return norm_second(x, g, u, weight, 0.1, case.groups(6), centred=case.centred)[:2]

    assert torch.autograd.gradcheck(second, (x, g, u, weight))

    def first(x, g, weight):
        return norm_first(x, g, weight, 0.1, case.groups(6), centred=case.centred, parameters=True)

    assert torch.autograd.gradcheck(first, (x, g, weight))


@pytest.mark.parametrize("which", range(4), ids=["x", "g", "u", "weight"])
def test_one_argument_alone_needs_a_gradient(life, which):
    four = drawn(life, 3, 6, 5, dtype=torch.float64)

    def gradients(*which):
        given = [t.clone().requires_grad_(k in which) for k, t in enumerate(four)]
        total = sum(t.square().sum() for t in both("group", *given))
        return torch.autograd.grad(total, [given[k] for k in which])

    torch.testing.assert_close(gradients(which)[0], gradients(0, 1, 2, 3)[which])


def test_parameters_that_nobody_wants(life):
    x, g, u, weight = drawn(life, 3, 6, 5)
    want = both("group", x, g, u, weight)
    found = both("group", x, g, u, weight, parameters=False)
    assert [k for k, t in enumerate(found) if t is None] == [1, 2, 5]
    assert all(torch.equal(found[k], want[k]) for k in (0, 3, 4))


@pytest.mark.parametrize("shape", [(0, 6), (0, 6, 4), (3, 6, 0), (3, 0)])
def test_empty(life, shape):
    found = both("layer", *(t for t in drawn(life, *shape)))
    for k, got in enumerate(found):
        assert got.shape == ((shape[1],) if k in (1, 2, 5) else shape)
        assert not got.any()


@not_emulated
def test_same_bits_each_time_and_for_any_threads(life, threads):
    for shape in ((800, 200), (40, 6, 500)):
        found = []
        for count in (1, 2, 2, 1):
            threads(count)
            found.append(both("layer" if len(shape) == 2 else "group", *drawn(life, *shape)))
        if life.name == "reference":  # torch.sum itself depends on the number of threads
            found = found[::3]
        assert all(torch.equal(a, b) for one in found for a, b in zip(one, found[0], strict=True))


@settings(
    derandomize=True, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    shape=st.lists(st.integers(1, 9), min_size=2, max_size=4), name=st.sampled_from(sorted(CASES))
)
def test_any_shape(life, shape, name):
    x, g, u, weight = drawn(life, *shape, dtype=torch.float64)
    case = CASES[name]
    if x[0].numel() <= 2 * case.groups(shape[1]):
        return  # rows of one entry or two, of which roundings are left
    check(name, x, g, u, weight, 0.1)
