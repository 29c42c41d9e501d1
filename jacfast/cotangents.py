"""Who chooses the cotangents v of J^T v. Every function returns [n, N, K]: n vectors per sample."""

import torch
from torch import Tensor

from jacfast.ops import checks
from jacfast.ops.orthonormal_cotangents import orthonormal_cotangents


def basis(logits: Tensor) -> Tensor:
    """Return e_1 ... e_K for every sample [K, N, K]: the rows of J, one by one."""
    samples, classes = logits.shape
    eye = torch.eye(classes, dtype=logits.dtype, device=logits.device)
    return eye[:, None].expand(classes, samples, classes)


def normal(samples: int, n: int, logits: Tensor, generator: torch.Generator | None) -> Tensor:
    """Draw [samples, n, K] from the standard normal, on the device of `logits`.

    From `generator`, or from that device's default generator, which advances: a captured CUDA graph
    draws afresh at each replay.
    """
    dtype = checks.accumulator(logits.dtype)
    shape = (samples, n, logits.shape[1])
    return torch.randn(shape, dtype=dtype, device=logits.device, generator=generator)


def orthonormal(draw: Tensor, dtype: torch.dtype, centred: bool = False) -> Tensor:
    """Return n orthonormal vectors per sample from a normal draw [N, n, K], times sqrt(dim/n).

    dim is K, or K - 1 where they are drawn inside the space orthogonal to 1 (`centred`).
    """
    return orthonormal_cotangents(draw, centred).to(dtype).movedim(1, 0)


def unit_sphere(draw: Tensor, dtype: torch.dtype) -> Tensor:
    """Return n independent vectors per sample, uniform on the unit sphere, times sqrt(K/n)."""
    scale = (draw.shape[2] / draw.shape[1]) ** 0.5
    unit = torch.nn.functional.normalize(draw, dim=2)
    return (unit * scale).to(dtype).movedim(1, 0)


def some_rows(draw: Tensor, n: int, dtype: torch.dtype) -> Tensor:
    """Return n different unit vectors e_k per sample, chosen by a uniform draw [N, K]."""
    chosen = draw.argsort(dim=1)[:, :n, None]
    rows = draw.new_zeros(len(draw), n, draw.shape[1], dtype=dtype)
    return rows.scatter(2, chosen, 1.0).movedim(1, 0)


def label_against_runner_up(logits: Tensor, y: Tensor) -> Tensor:
    """Return e_y - e_r, r the class of the largest logit but y (the lowest on ties) [1, N, K]."""
    own = torch.zeros_like(logits, requires_grad=False).scatter(1, y[:, None], 1.0)
    floor = torch.finfo(logits.dtype).min  # above y, also for a class at -inf
    others = logits.detach().clamp(min=floor).masked_fill(own > 0, float("-inf"))
    runner_up = others.argmax(dim=1, keepdim=True)
    return own.scatter(1, runner_up, -1.0)[None]


def of_classes(logits: Tensor, labels: Tensor) -> Tensor:
    """Return e_label [n, N, K] for classes labels [N, n]."""
    vectors = torch.zeros(labels.shape[1], *logits.shape, dtype=logits.dtype, device=logits.device)
    return vectors.scatter_(2, labels.T[..., None], 1.0)


def boundaries(logits: Tensor, labels: Tensor, origin: Tensor) -> Tensor:
    """Return e_label - e_origin [n, N, K] for classes labels [N, n], other ones than origin [N]."""
    return of_classes(logits, labels).scatter_(2, origin.expand_as(labels.T)[..., None], -1.0)


def unit(rows: Tensor, otherwise: Tensor) -> Tensor:
    """Return `rows` [N, D] at length 1; where the length is 0 (J = 0) or not finite, `otherwise`.

    The length is taken in float64, where squares neither overflow nor vanish.
    """
    size = torch.linalg.vector_norm(rows, dim=1, keepdim=True, dtype=torch.float64)
    fine = (size > 0) & size.isfinite()
    return torch.where(fine, rows / torch.where(fine, size, 1.0), otherwise).to(rows.dtype)
