"""What halfspace_projection refuses, and how it is registered."""

import math
import re

import pytest
import torch

from jacfast.ops import halfspace_projection, lives
from tests.testing import OP_ERRORS

B, W, C = torch.ones(4, 6), torch.ones(4, 2, 6), torch.ones(4, 2).double()
WRONG = [
    ((B.long(), B, W, C), TypeError, "low must be float32.*; got torch.int64"),
    ((B.half(), B, W, C), TypeError, "low must be float32 or float64; got torch.float16"),
    ((B, B, W.bfloat16(), C), TypeError, "w must be float32 or float64; got torch.bfloat16"),
    ((B, [1.0], W, C), TypeError, "high must be a torch.Tensor; got list"),
    ((B, B.double(), W, C), TypeError, "high must have the dtype of low"),
    ((B, B, W.double(), C), TypeError, "w must have the dtype of low"),
    ((B[0], B, W, C), ValueError, re.escape("low must have shape [N, D] = [any, any]; got [6]")),
    ((B, B[:3], W, C), ValueError, re.escape("high must have shape [N, D] = [4, 6]; got [3, 6]")),
    ((B, B, W[:3], C), ValueError, re.escape("w must have shape [N, M, D] = [4, any, 6]; got [3")),
    ((B, B, W[:, :0], C), ValueError, "w must have 1 to 8 half-spaces of each sample; got 0"),
    ((B, B, W.repeat(1, 5, 1), C), ValueError, "w must have 1 to 8 half-spaces .* got 10"),
    ((B, B, W, C.float()), TypeError, "c must be float64; got torch.float32"),
    ((B, B, W, C[:, :1]), ValueError, re.escape("c must have shape [N, M] = [4, 2]; got [4, 1]")),
    ((B, B, W, C, 3), ValueError, "p must be one of 1, 2, inf; got 3"),
]


@pytest.mark.parametrize(("arguments", "error", "message"), WRONG)
def test_errors(life, arguments, error, message):
    moved = [t.to(life.device) if isinstance(t, torch.Tensor) else t for t in arguments]
    with pytest.raises(error, match=message):
        halfspace_projection(*moved)


@pytest.mark.skipif(not lives.has("halfspace_projection"), reason="the extension has no such op")
def test_registration():
    op = torch.ops.jacfast.halfspace_projection
    for dtype, p in ((torch.float32, 2.0), (torch.float32, 1.0), (torch.float64, math.inf)):
        low, w, c = -torch.rand(4, 6), torch.randn(6, 2, 4).transpose(0, 2), torch.rand(4, 2)
        given = low.to(dtype), -low.to(dtype), w.to(dtype), c.double(), p
        torch.library.opcheck(op.default, given)
    for arguments, message in (
        ((B, B[:3], W, C, 2.0), "high must have shape"),
        ((B, B, W[:, :, :5], C, 2.0), "w must have shape"),
        ((B, B, W[:, 0], C, 2.0), "w must have 3 dimensions"),
        ((B, B, W, C.float(), 2.0), "c must have dtype"),
        ((B, B, W, C[:3], 2.0), "c must have shape"),
        ((B, B.double(), W, C, 2.0), "high must have dtype"),
        ((B.half(), B.half(), W.half(), C, 2.0), "low must be float32 or float64"),
        ((B, B, W.repeat(1, 5, 1), C.repeat(1, 5), 2.0), "w must have 1 to 8 half-spaces"),
        ((B, B, W, C, 3.0), "p must be 1, 2 or inf; got 3"),
    ):
        with pytest.raises(OP_ERRORS, match=message):
            op(*arguments)


def test_constant_to_autograd(life):
    low = -life.randn(4, 6).abs()
    w = life.randn(4, 2, 6, seed=1).requires_grad_()
    r, missed = halfspace_projection(low, -low, w, life.randn(4, 2, dtype=torch.float64))
    assert not r.requires_grad
    assert not missed.requires_grad


def test_compiled(life):
    if life.name == "reference":
        pytest.skip("the reference looks at its data, so there is no whole graph")

    def run(low, w, c):
        r, missed = halfspace_projection(low, -low, w, c)
        return r + 1, missed

    low, w = -life.randn(4, 6).abs(), life.randn(4, 2, 6, seed=1)
    c = life.randn(4, 2, seed=2, dtype=torch.float64)
    torch._dynamo.reset()
    compiled = torch.compile(run, fullgraph=True, backend="aot_eager")
    for got, want in zip(compiled(low, w, c), run(low, w, c), strict=True):
        torch.testing.assert_close(got, want)
