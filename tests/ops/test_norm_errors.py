"""What norm_first and norm_second refuse, and how they are registered."""

import re

import pytest
import torch

from jacfast.ops import lives, norm_first, norm_second
from tests.ops.norms import CASES
from tests.testing import OP_ERRORS, assert_close, not_emulated

X = torch.ones(3, 6)
WRONG = [
    ((X.long(), X, None), TypeError, "x must be float32.*; got torch.int64"),
    ((X, [1.0], None), TypeError, "g must be a torch.Tensor; got list"),
    ((X, X.double(), None), TypeError, "g must have the dtype of x"),
    ((X, X[:2], None), ValueError, re.escape("g must have the shape of x, [3, 6]; got [2, 6]")),
    ((X[0], X[0], None), ValueError, re.escape("x must have shape [N, C, ...]; got [6]")),
    ((X, X, X), ValueError, re.escape("weight must have shape [C] = [6]; got [3, 6]")),
    ((X, X, X[0].int()), TypeError, "weight must be float32.*; got torch.int32"),
    ((X, X, None, 1e-5, 4), ValueError, "groups must divide the 6 channels; got 4"),
    ((X, X, None, 1e-5, 0), ValueError, "groups must be >= 1; got 0"),
]


@pytest.mark.parametrize(("arguments", "error", "message"), WRONG)
def test_errors(life, arguments, error, message):
    x, g, weight, *rest = (
        t.to(life.device) if isinstance(t, torch.Tensor) else t for t in arguments
    )
    rest = rest or [1e-5]
    with pytest.raises(error, match=message):
        norm_first(x, g, weight, *rest)
    with pytest.raises(error, match=message):
        norm_second(x, g, x, weight, *rest)


def test_errors_of_the_second_cotangent(life):
    x = life.randn(3, 6)
    with pytest.raises(ValueError, match=re.escape("u must have the shape of x, [3, 6]; got [2")):
        norm_second(x, x, x[:2], None, 1e-5)


@pytest.mark.skipif(not lives.has("norm_first"), reason="the extension has no such op")
@pytest.mark.parametrize("name", CASES)
def test_registration(name):
    ops, centred = torch.ops.jacfast, CASES[name].centred
    groups = CASES[name].groups(6)
    for x in (torch.randn(3, 6, 4), torch.randn(4, 6, 3, dtype=torch.float64).transpose(0, 2)):
        g, u, weight = torch.randn_like(x), torch.randn_like(x), torch.ones(6, dtype=x.dtype)
        for options in ((weight, 1e-5, groups, centred, True), (None, 0.1, groups, centred, False)):
            torch.library.opcheck(ops.norm_first.default, (x, g, *options))
            torch.library.opcheck(ops.norm_second.default, (x, g, u, *options))
    x, rest = torch.ones(3, 6, 2), (None, 1e-5, 1, True, True)
    for arguments, message in (
        ((x, x[:2], *rest), "g must have shape"),
        ((x.flatten(1), x.flatten(1), *rest), "x must have 3 dimensions"),
        ((x, x, x[0, :, 0].double(), *rest[1:]), "weight must have dtype"),
        ((x, x, x[0, :5, 0], *rest[1:]), "weight must have shape"),
        ((x, x, None, 1e-5, 4, True, True), "groups must divide the 6 channels; got 4"),
    ):
        with pytest.raises(OP_ERRORS, match=message):
            ops.norm_first(*arguments)
    with pytest.raises(OP_ERRORS, match="u must have dtype"):
        ops.norm_second(x, x, x.double(), *rest)


@not_emulated
def test_compiled(life):
    def second(x, g, u, weight):
        of_x, of_g, of_weight = norm_second(x, g, u, weight, 1e-5, parameters=True)
        return of_x + of_g, of_weight

    x, g, u, weight = life.randn(3, 9), life.randn(3, 9, seed=1), life.randn(3, 9, seed=2), None
    torch._dynamo.reset()
    compiled = torch.compile(second, fullgraph=True, backend="aot_eager")
    for got, want in zip(compiled(x, g, u, weight), second(x, g, u, weight), strict=True):
        assert_close(got, want, torch.float32)


def test_under_vmap_the_reference_runs(life):
    x, g, u = (life.randn(4, 3, 9, seed=k) for k in range(3))
    rows = torch.func.vmap(lambda x, g, u: norm_second(x, g, u, None, 1e-5)[0])(x, g, u)
    for got, one in zip(rows, zip(x, g, u, strict=True), strict=True):
        assert_close(got, norm_second(*one, None, 1e-5)[0], torch.float32)
