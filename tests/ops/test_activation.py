"""activation_first and activation_second in every life, against float64 autograd."""

import math
import re

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jacfast.ops import activation_first, activation_second, lives
from tests.ops.activations import CASES, oracle, read_at
from tests.testing import DTYPES, LONG, OP_ERRORS, SIZES, TOLERANCE, not_emulated, starting_at

NAN, INF = float("nan"), float("inf")


def assert_close(got, want, dtype):
    """Compare with float64, within the tolerance of numbers about 1: the terms that cancel."""
    assert got.shape == want.shape
    size = max(1.0, float(want[want.isfinite()].abs().max())) if want.isfinite().any() else 1.0
    wide = got.detach().cpu().double(), want.cpu().double()
    torch.testing.assert_close(*wide, rtol=0, atol=size * TOLERANCE[dtype], equal_nan=True)


def both(name, x, g, u):
    """Return what `oracle` returns, of the ops."""
    kind, parameters, _ = CASES[name]
    first = activation_first(x, g, kind, parameters)
    return first, *activation_second(x, g, u, kind, parameters)


def drawn(life, *shape, name, seed=0, dtype=torch.float32):
    """Return an x over all branches of the functions, and a g and a u."""
    x = read_at(name, 2.5 * life.randn(*shape, seed=seed, dtype=torch.float64)).to(dtype)
    return x, *(life.randn(*shape, seed=seed + k, dtype=dtype) for k in (1, 2))


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_sizes_and_dtypes(life, name, dtype):
    sizes = (*SIZES, *LONG[::3])
    longest = drawn(life, sizes[-1], name=name, dtype=dtype)
    true = oracle(name, *longest)
    for size in sizes:
        x, g, u = (t[-size:].clone() for t in longest)  # nothing may be read beyond
        before = x.clone(), g.clone(), u.clone()
        for got, want in zip(both(name, x, g, u), true, strict=True):
            assert got.dtype == dtype
            assert got.device == x.device
            assert_close(got, want[-size:], dtype)
        assert all(torch.equal(*pair) for pair in zip(before, (x, g, u), strict=True))


def crossed(x):
    """Return the values of x [N, C, H, W] in other layouts."""
    wide = torch.cat([x, x], 3)
    return {
        "channels_last": x.to(memory_format=torch.channels_last),
        "transposed": x.transpose(1, 3).contiguous().transpose(1, 3),
        "strided": wide.flatten(3).repeat_interleave(2, 3)[..., : 2 * x.shape[3] : 2],
        "cut": wide[..., : x.shape[3]],
    }


@pytest.mark.parametrize("name", CASES)
def test_layouts(life, name):
    x, g, u = drawn(life, 3, 5, 4, 7, name=name)
    want = both(name, x, g, u)
    for key in crossed(x):
        for others in ("contiguous", key):
            inputs = [crossed(x)[key], *(t if others != key else crossed(t)[key] for t in (g, u))]
            for got, one in zip(both(name, *inputs), want, strict=True):
                assert torch.equal(got, one), (key, others)
                assert got.stride() == torch.empty_like(inputs[0]).stride(), key


def test_layouts_with_a_dimension_of_one(life):
    """A stride that counts nothing makes no difference, and no copy of another shape."""
    x, g, u = drawn(life, 3, 1, 4, 4, name="gelu")
    last = [t.to(memory_format=torch.channels_last) for t in (x, g, u)]
    for mixed in ((last[0], g, u), (x, last[1], last[2])):
        for got, want in zip(both("gelu", *mixed), both("gelu", x, g, u), strict=True):
            assert torch.equal(got, want)


def test_an_expanded_cotangent(life):
    x, g, u = drawn(life, 3, 9, name="silu")
    got = both("silu", x, g[:1].expand(3, 9), u[:, :1].expand(3, 9))
    want = both("silu", x, g[:1].repeat(3, 1), u[:, :1].repeat(1, 9))
    for one, other in zip(got, want, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_tensors_may_start_between_boundaries(life, dtype):
    """Vector loads need an address that 16 bytes divide; each tensor has its own."""
    for size in (1, 2, 5, 8, 41):
        x, g, u = drawn(life, size, name="gelu", seed=size, dtype=dtype)
        for offset in range(0, 9, 2):
            moved = starting_at(x, offset), starting_at(g, (3 * offset) % 7), starting_at(u, 1)
            for got, want in zip(both("gelu", *moved), oracle("gelu", x, g, u), strict=True):
                assert_close(got, want, dtype)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("shape", [(0,), (3, 0, 2), ()])
def test_empty_and_scalars(life, name, shape):
    x, g, u = (t.reshape(shape) for t in drawn(life, math.prod(shape), name=name))
    for got, want in zip(both(name, x, g, u), oracle(name, x, g, u), strict=True):
        assert got.shape == shape
        assert_close(got, want, torch.float32)


# The limits of f' at both ends; those of f'' are 0.
ENDS = {"softplus": (0, 1), "softplus, sharp": (0, 1), "logsigmoid": (1, 0), "elu": (0, 1)}
ENDS |= {"celu": (0, 1), "gelu": (0, 1), "gelu_tanh": (0, 1), "silu": (0, 1), "mish": (0, 1)}
ENDS |= {"elu, bent": (0, 1), "hardswish": (0, 1), "sigmoid": (0, 0), "tanh": (0, 0)}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_far_out_the_derivatives_are_their_limits(life, name, dtype):
    """Also where squares and exponentials overflow, and at infinity: no NaN."""
    far = [3e3, 6e4] + [1e10, 1e30] * (dtype not in (torch.float16,)) + [INF]
    for sign, limit in zip((-1, 1), ENDS[name], strict=True):
        x = read_at(name, life.tensor([sign * value for value in far], dtype=dtype))
        one = torch.ones_like(x)
        first, of_x, of_g = both(name, x, one, one)
        assert first.tolist() == of_g.tolist() == [limit] * len(x)
        if name not in ("sigmoid", "tanh"):
            assert of_x.tolist() == [0] * len(x)


@pytest.mark.parametrize("name", CASES)
def test_nan_stays_where_it_is(life, name):
    """Of ELU and hardswish, too, where PyTorch keeps it in whole vectors only."""
    x, g, u = drawn(life, 40, name=name)
    x[[3, 39]], g[5], u[7] = NAN, NAN, NAN
    first, of_x, of_g = (t.isnan().nonzero().flatten().tolist() for t in both(name, x, g, u))
    assert first == [3, 5, 39]
    assert of_x == [3, 5, 7, 39]
    assert of_g == [3, 7, 39]


KINKS = {
    "hardswish": (-3.0, 3.0),
    "elu, bent": (0.0,),
    "celu": (-0.0,),
    "softplus, sharp": (2 / 3,),
}


@pytest.mark.parametrize("name", KINKS)
def test_kinks_are_pytorchs(life, name):
    for at in KINKS[name]:
        x = life.tensor([at, math.nextafter(at, INF), math.nextafter(at, -INF)], torch.float64)
        one = torch.ones_like(x)
        for got, want in zip(both(name, x, one, one), oracle(name, x, one, one), strict=True):
            assert_close(got, want, torch.float64)


@not_emulated
@pytest.mark.parametrize("name", CASES)
def test_derivatives(life, name):
    """Of the first up to the third: f''' comes from the reference."""
    kind, parameters, _ = CASES[name]
    x, g, u = (t.requires_grad_() for t in drawn(life, 2, 9, name=name, dtype=torch.float64))
    first = lambda x, g: activation_first(x, g, kind, parameters)  # noqa: E731
    assert torch.autograd.gradcheck(first, (x, g))
    assert torch.autograd.gradgradcheck(first, (x, g), atol=1e-4)
    second = lambda x, g, u: activation_second(x, g, u, kind, parameters)  # noqa: E731
    assert torch.autograd.gradcheck(second, (x, g, u))


@pytest.mark.parametrize("name", CASES)
def test_third_derivatives_far_out_are_zeros(life, name):
    """No infinity of a piece that is not taken becomes a NaN."""
    kind, parameters, _ = CASES[name]
    x = read_at(name, life.tensor([-1e30, -3e3, 3e3, 1e30], dtype=torch.float64)).requires_grad_()
    one = torch.ones_like(x)
    of_x, of_g = activation_second(x, one, one, kind, parameters)
    (third,) = torch.autograd.grad(of_x.sum() + of_g.sum(), x)
    if name in ("sigmoid", "tanh"):
        assert third.isfinite().all()
    else:
        assert third.tolist() == [0] * 4


@pytest.mark.parametrize("missing", ["x", "g"])
def test_one_of_the_gradients_alone(life, missing):
    x, g, u = drawn(life, 7, name="gelu")
    wanted = g if missing == "x" else x
    wanted.requires_grad_()
    (got,) = torch.autograd.grad(activation_first(x, g, "gelu"), wanted, u)
    _, of_x, of_g = oracle("gelu", x, g, u)
    assert_close(got, of_g if missing == "x" else of_x, torch.float32)


@pytest.mark.parametrize("which", range(3), ids=["x", "g", "u"])
def test_one_argument_alone_needs_a_gradient(life, which):
    three = drawn(life, 7, name="gelu", dtype=torch.float64)

    def gradients(*which):
        given = [t.detach().clone().requires_grad_(k in which) for k, t in enumerate(three)]
        total = sum(t.square().sum() for t in activation_second(*given, "gelu"))
        return torch.autograd.grad(total, [given[k] for k in which])

    torch.testing.assert_close(gradients(which)[0], gradients(0, 1, 2)[which])


@not_emulated
def test_same_bits_each_time_and_for_any_threads(life, threads):
    x, g, u = drawn(life, 100_001, name="gelu")
    found = []
    for count in (1, 2, 2, 1):
        threads(count)
        found.append(both("gelu", x, g, u))
    if life.name == "reference":  # PyTorch cuts vectors where threads end
        found = found[::3]
    assert all(torch.equal(a, b) for one in found for a, b in zip(one, found[0], strict=True))


@settings(
    derandomize=True, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(shape=st.lists(st.integers(0, 9), max_size=4), name=st.sampled_from(sorted(CASES)))
def test_any_shape(life, shape, name):
    x, g, u = (t.reshape(shape) for t in drawn(life, math.prod(shape), name=name))
    for got, want in zip(both(name, x, g, u), oracle(name, x, g, u), strict=True):
        assert_close(got, want, torch.float32)


ONE = torch.ones(3)
WRONG = [
    ((ONE, ONE, "relu"), ValueError, "kind must be one of gelu.*; got 'relu'"),
    ((ONE, ONE, "gelu", (1.0,)), ValueError, r"parameters of gelu must be \(\); got \(1.0,\)"),
    ((ONE, ONE, "elu"), ValueError, r"parameters of elu must be \(alpha, scale, input_scale\)"),
    ((ONE, ONE, "elu", (1, 1, 0)), ValueError, "input_scale of elu must be positive; got 0"),
    ((ONE.long(), ONE, "gelu"), TypeError, "x must be float32.*; got torch.int64"),
    ((ONE, [1.0], "gelu"), TypeError, "g must be a torch.Tensor; got list"),
    ((ONE, ONE.double(), "gelu"), TypeError, "g must have the dtype of x"),
    ((ONE, ONE[:2], "gelu"), ValueError, r"g must have the shape of x, \[3\]; got \[2\]"),
]


@pytest.mark.parametrize(("arguments", "error", "message"), WRONG)
def test_errors(life, arguments, error, message):
    x, g, *rest = (t.to(life.device) if isinstance(t, torch.Tensor) else t for t in arguments)
    with pytest.raises(error, match=message):
        activation_first(x, g, *rest)
    with pytest.raises(error, match=message):
        activation_second(x, g, x, *rest)


def test_errors_of_the_second_cotangent(life):
    x = life.randn(3)
    with pytest.raises(ValueError, match=re.escape("u must have the shape of x, [3]; got [4]")):
        activation_second(x, x, life.randn(4), "gelu")


@pytest.mark.skipif(not lives.has("activation_first"), reason="the extension has no such op")
@pytest.mark.parametrize("name", ["gelu", "softplus, sharp"])  # one op: the kind is a word to it
def test_registration(name):
    kind, parameters, _ = CASES[name]
    numbers = (*parameters, 0.0, 0.0, 0.0)[:3]
    ops = torch.ops.jacfast
    given = torch.randn(3, 5), torch.randn(3, 5, dtype=torch.float64).t()
    for x in given if name == "gelu" else given[:1]:  # whose layout is nothing to the kind
        g, u = torch.randn(x.shape, dtype=x.dtype), torch.randn_like(x)
        torch.library.opcheck(ops.activation_second.default, (x, g, u, kind, *numbers))
        x, g = x.requires_grad_(), g.requires_grad_()
        torch.library.opcheck(ops.activation_first.default, (x, g, kind, *numbers))
    with pytest.raises(OP_ERRORS, match="g must have shape"):
        ops.activation_first(ONE, ONE[:2], kind, *numbers)
    with pytest.raises(OP_ERRORS, match="u must have dtype"):
        ops.activation_second(ONE, ONE, ONE.double(), kind, *numbers)
    with pytest.raises(OP_ERRORS, match="kind must be one of"):
        ops.activation_first(ONE, ONE, "relu", 0.0, 0.0, 0.0)


@not_emulated
def test_compiled(life):
    def pulled(x, g):
        return activation_first(2 * x, g, "gelu").square().sum()

    x, g = life.randn(4, 9).requires_grad_(), life.randn(4, 9, seed=1).requires_grad_()
    torch._dynamo.reset()
    compiled = torch.compile(pulled, fullgraph=True, backend="aot_eager")
    want, got = (torch.autograd.grad(f(x, g), (x, g)) for f in (pulled, compiled))
    for one, other in zip(got, want, strict=True):
        assert_close(one, other, torch.float32)
