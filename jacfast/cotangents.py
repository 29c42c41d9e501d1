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


def orthonormal(logits: Tensor, n: int, generator: torch.Generator | None = None) -> Tensor:
    """Return n random orthonormal vectors per sample, times sqrt(K/n) [n, N, K].

    Drawn by torch.randn on the device of `logits` from `generator`, or from that device's default
    generator, which advances: a captured CUDA graph draws afresh at each replay.
    """
    draw = _normal(logits, n, generator)
    return orthonormal_cotangents(draw).to(logits.dtype).movedim(1, 0)


def unit_sphere(logits: Tensor, n: int, generator: torch.Generator | None = None) -> Tensor:
    """Return n independent vectors per sample, uniform on the unit sphere, times sqrt(K/n)."""
    draw = _normal(logits, n, generator)
    scale = (logits.shape[1] / n) ** 0.5
    unit = torch.nn.functional.normalize(draw, dim=2)
    return (unit * scale).to(logits.dtype).movedim(1, 0)


def _normal(logits: Tensor, n: int, generator: torch.Generator | None) -> Tensor:
    samples, classes = logits.shape
    dtype = checks.accumulator(logits.dtype)
    return torch.randn(samples, n, classes, dtype=dtype, device=logits.device, generator=generator)
