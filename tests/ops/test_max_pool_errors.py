"""What the pooling ops refuse, in every life, and how they are registered with PyTorch."""

import pytest
import torch

from jacfast.ops import lives, max_pool, max_pool_gather, max_pool_scatter
from tests.ops.pooling import WINDOWS
from tests.testing import OP_ERRORS

X, G, C = torch.ones(2, 3, 4, 5), torch.ones(2, 3, 2, 2), torch.zeros(2, 3, 2, 2).byte()
TWO = (2, 2)


@pytest.mark.parametrize(
    ("function", "arguments", "error", "message"),
    [
        (max_pool, (X[0], TWO, TWO), ValueError, r"x must have shape \[N, C, H, W\].*\[3, 4, 5\]"),
        (max_pool, (X.long(), TWO, TWO), TypeError, "x must be float32.*; got torch.int64"),
        (max_pool, ([1.0], TWO, TWO), TypeError, "x must be a torch.Tensor; got list"),
        (max_pool, (X, 2, TWO), TypeError, "kernel must be two integers; got 2"),
        (max_pool, (X, TWO, (2,)), TypeError, r"stride must be two integers; got \(2,\)"),
        (max_pool, (X, (2.0, 2), TWO), TypeError, r"kernel must be two integers; got \(2.0, 2\)"),
        (max_pool, (X, (0, 2), TWO), ValueError, r"kernel must be at least 1; got \(0, 2\)"),
        (max_pool, (X, TWO, (2, -1)), ValueError, r"stride must be at least 1; got \(2, -1\)"),
        (max_pool, (X, (5, 2), TWO), ValueError, r"no larger than the size.*got \(5, 2\)"),
        (max_pool, (X, (16, 16), TWO), ValueError, r"at most 255 entries; got \(16, 16\)"),
        (max_pool_scatter, (G, C, (6, 5), TWO, TWO), ValueError, "g must have shape"),
        (max_pool_scatter, (G[0], C, (4, 5), TWO, TWO), ValueError, "g must have shape"),
        (max_pool_scatter, (G, C[:1], (4, 5), TWO, TWO), ValueError, "choice must have shape"),
        (max_pool_scatter, (G, C.int(), (4, 5), TWO, TWO), TypeError, "choice must be a uint8"),
        (max_pool_scatter, (G, C, 4, TWO, TWO), TypeError, "size must be two integers; got 4"),
        (max_pool_gather, (X, C[:, :, :1], TWO, TWO), ValueError, "choice must have shape"),
        (max_pool_gather, (X, [0], TWO, TWO), TypeError, "choice must be a uint8.*; got list"),
        (max_pool_gather, (X.byte(), C, TWO, TWO), TypeError, "t must be float32"),
    ],
)
def test_errors(life, function, arguments, error, message):
    moved = (a.to(life.device) if isinstance(a, torch.Tensor) else a for a in arguments)
    with pytest.raises(error, match=message):
        function(*moved)


@pytest.mark.skipif(not lives.BUILT, reason="the extension is not built")
def test_the_ops_check_for_themselves():
    ops = torch.ops.jacfast
    for call, message in (
        (lambda: ops.max_pool(X[0], TWO, TWO, False), "x must have 4 dimensions"),
        (lambda: ops.max_pool(X, (2, 0), TWO, False), "kernel must be two integers"),
        (lambda: ops.max_pool(X, (2**33, 2**33), TWO, False), "at most 255 entries"),
        (lambda: ops.max_pool(X, (5, 2), TWO, False), "no larger than the size"),
        (lambda: ops.max_pool(X.long(), TWO, TWO, False), "x must be float32"),
        (lambda: ops.max_pool_scatter(G, C, (6, 5), TWO, TWO), "choice must have sh"),
        (lambda: ops.max_pool_scatter(G[:, :, 1:], C, (4, 5), TWO, TWO), "g must have"),
        (lambda: ops.max_pool_gather(X, C.int(), TWO, TWO), "choice must have dtype"),
        (lambda: ops.max_pool_gather(X, C[1:], TWO, TWO), "choice must have shape"),
    ):
        with pytest.raises(OP_ERRORS, match=message):
            call()


@pytest.mark.skipif(not lives.BUILT, reason="the extension is not built")
@pytest.mark.parametrize(("kernel", "stride"), WINDOWS[:2])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_registration(dtype, kernel, stride):
    ops = torch.ops.jacfast
    for leaf in (False, True):
        x = torch.randn(2, 3, 7, 6, dtype=dtype).requires_grad_(leaf)
        y, choice = max_pool(x.detach(), kernel, stride, True)
        torch.library.opcheck(ops.max_pool.default, (x, kernel, stride, True))
        g = y.requires_grad_(leaf)
        torch.library.opcheck(ops.max_pool_scatter.default, (g, choice, (7, 6), kernel, stride))
        torch.library.opcheck(ops.max_pool_gather.default, (x, choice, kernel, stride))
