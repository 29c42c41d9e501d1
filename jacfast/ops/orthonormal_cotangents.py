"""Random orthonormal cotangents, per sample: see `orthonormal_cotangents`."""

import torch
from torch import Tensor

from jacfast.ops import checks, lives


def orthonormal_cotangents(gaussian: Tensor, centred: bool = False) -> Tensor:
    """Turn Gaussian draws into orthonormal rows, scaled for an unbiased trace estimate.

    Per sample, Gram-Schmidt (each row twice, which keeps the orthogonality at rounding level) on
    the n rows of `gaussian`, times ``sqrt(dim/n)``, so that ``E[sum_i v_i v_i^T]`` is the identity
    on the space drawn from. With ``centred`` the rows are drawn inside the space orthogonal to the
    all-ones vector, of dimension ``dim = K - 1``; else ``dim = K``. ``n = dim`` gives a complete
    basis, and the estimate is exact.

    A row that is linearly dependent on the rows before it, or not finite (probability zero for
    Gaussian draws), is replaced by the first unit vector e_j that is not; the result is never NaN.

    Args:
        gaussian: [N, n, K], a standard normal draw; float32 or float64 (half types are computed in
            float32 and rounded once at the end).
        centred: draw inside the space orthogonal to the all-ones vector.

    Returns:
        [N, n, K], dtype and device of `gaussian`. The vectors are random constants: there is no
        derivative.

    Raises:
        TypeError: `gaussian` is not a floating-point tensor.
        ValueError: it is not 3-D, requires grad, or n > dim.

    Source: Hoffman, Roberts & Yaida 2019 (arXiv 1908.02729), with the n vectors made orthonormal.
    """
    checks.floating("gaussian", gaussian)
    checks.shape("gaussian", gaussian, "[N, n, K]", (None, None, None))
    _, rows, classes = gaussian.shape
    dim = classes - 1 if centred else classes
    if rows > dim:
        space = "K - 1 (centred)" if centred else "K"
        raise ValueError(f"gaussian must have n <= {space} = {dim} rows per sample; got n = {rows}")
    if gaussian.requires_grad:
        raise ValueError(
            "gaussian must not require grad (cotangents are constants); got requires_grad=True"
        )
    if not lives.native(gaussian):
        return reference(gaussian, centred)  # in float64, which autocast leaves alone
    draw = gaussian.to(checks.accumulator(gaussian.dtype))
    return lives.call("orthonormal_cotangents", draw, centred).to(gaussian.dtype)


def reference(gaussian: Tensor, centred: bool) -> Tensor:
    """Compute `orthonormal_cotangents` in PyTorch: the definition."""
    draws = gaussian.to(torch.float64)
    eps = torch.finfo(checks.accumulator(gaussian.dtype)).eps
    samples, rows, classes = draws.shape
    dim = classes - 1 if centred else classes
    basis = torch.empty_like(draws)
    done = draws.new_full((samples, 1, classes), classes**-0.5) if centred else draws[:, :0]
    units = torch.eye(classes, dtype=draws.dtype, device=draws.device)
    for i in range(rows):
        row, independent = _orthogonalise(draws[:, i], done, eps)
        for unit in units[: i + 2]:  # i rows and 1 can depend on at most i + 1 unit vectors
            spare, usable = _orthogonalise(unit.expand_as(row), done, eps)
            row = torch.where(independent[:, None], row, spare)
            independent = independent | usable
        basis[:, i] = row
        done = torch.cat([done, row[:, None]], dim=1)
    return (basis * (dim / max(rows, 1)) ** 0.5).to(gaussian.dtype)


def _orthogonalise(row: Tensor, done: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """Return `row` [N, K] made orthogonal to `done` [N, m, K] and unit, and whether that went."""
    before = row.norm(dim=1)
    for _ in range(2):
        row = row - torch.einsum("nm,nmk->nk", torch.einsum("nmk,nk->nm", done, row), done)
    after = row.norm(dim=1)
    floor = 16 * row.shape[1] * eps * before
    usable = (after > floor) & after.isfinite()
    return row / after[:, None], usable


if "cpu" in lives.BUILT:

    @torch.library.register_fake("jacfast::orthonormal_cotangents")
    def _(gaussian: Tensor, centred: bool) -> Tensor:
        return torch.empty_like(gaussian, memory_format=torch.contiguous_format)
