"""The measure of a row: see `row_norm`."""

import torch
from torch import Tensor

from jacfast.ops import checks, lives

KINDS = ("sumsq", "sumabs", "maxabs")


def row_norm(g: Tensor, kind: str) -> Tensor:
    """Measure each row of `g` in one read.

    ``sumsq``: ``sum_d g_d^2`` (the squared 2-norm); ``sumabs``: ``sum_d |g_d|`` (the 1-norm);
    ``maxabs``: ``max_d |g_d|`` (the infinity norm). Sums are accumulated in float64 whatever the
    dtype. Differentiable any number of times: the derivative is ``2 g``, ``sign(g)`` (0 at 0), and
    ``sign`` at the first entry that attains the maximum. NaN in a row gives NaN for that row.

    Args:
        g: [R, D], D >= 1; float32, float64, float16 or bfloat16.
        kind: ``sumsq``, ``sumabs`` or ``maxabs``.

    Returns:
        [R], in the dtype of `g`, or float32 where `g` is float16 or bfloat16 (a sum of squares
        overflows float16 at a norm of 256).

    Raises:
        TypeError: `g` is not a floating-point tensor.
        ValueError: `g` is not 2-D, has no column, or `kind` is unknown.

    Source: the norms of Jakubovitz & Giryes eq. 3 (squared 2-norm), Seck, Loosli & Canu eq. 3
    (1-norm) and Yu et al. eq. 12 (1-, 2- and infinity norm).
    """
    checks.floating("g", g)
    checks.shape("g", g, "[R, D]", (None, None))
    if g.shape[1] < 1:
        raise ValueError(f"g must have at least one column; got {list(g.shape)}")
    if kind not in KINDS:
        raise ValueError(f"kind must be one of {', '.join(KINDS)}; got {kind!r}")
    if not lives.native(g):
        return reference(g, kind)
    return lives.call("row_norm", g, kind)[0]


def reference(g: Tensor, kind: str) -> Tensor:
    """Compute `row_norm` in PyTorch: the definition."""
    wide = g.to(torch.float64)
    if kind == "sumsq":
        value = wide.square().sum(dim=1)
    elif kind == "sumabs":
        value = wide.abs().sum(dim=1)
    else:
        first = wide.detach().abs().argmax(dim=1, keepdim=True)
        value = wide.gather(1, first).abs().squeeze(1)
    return value.to(checks.accumulator(g.dtype))


def _save(ctx, inputs, output) -> None:
    g, kind = inputs
    ctx.kind = kind
    ctx.save_for_backward(g, output[1])


def _derivative(ctx, grad: Tensor, _grad_where: Tensor | None):
    """Return d(value)/dg times `grad`, in differentiable ops, so that it differentiates again."""
    g, where = ctx.saved_tensors
    scale = grad.unsqueeze(1)  # float32 for half types, which may not hold it
    if ctx.kind == "sumsq":
        return (2 * scale * g).to(g.dtype), None
    if ctx.kind == "sumabs":
        return (scale * g.sign()).to(g.dtype), None
    at = where.unsqueeze(1)
    signed = (scale * g.gather(1, at).sign()).to(g.dtype)
    return torch.zeros_like(g).scatter(1, at, signed), None


if "cpu" in lives.BUILT:

    @torch.library.register_fake("jacfast::row_norm")
    def _(g: Tensor, kind: str) -> tuple[Tensor, Tensor]:
        value = g.new_empty(g.shape[0], dtype=checks.accumulator(g.dtype))
        where = g.new_empty(g.shape[0] if kind == "maxabs" else 0, dtype=torch.int64)
        return value, where

    torch.library.register_autograd("jacfast::row_norm", _derivative, setup_context=_save)
