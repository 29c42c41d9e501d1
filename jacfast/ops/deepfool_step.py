"""One fused DeepFool step from materialised Jacobian rows: see `deepfool_step`."""

import torch
from torch import Tensor

from jacfast.checks import at_least
from jacfast.ops import checks, lives


def deepfool_step(
    logits: Tensor, rows: Tensor, origin: Tensor, floor: float = 0.0
) -> tuple[Tensor, Tensor, Tensor]:
    """Find the nearest linearised decision boundary of each sample and the step onto it.

    Per sample, with ``f_k = z_k - z_origin`` and ``w_k = row_k - row_origin``:

        distance_k = |f_k| / ||w_k||_2        winner = argmin_k distance_k
        r = (distance_winner + floor) * w_winner / ||w_winner||_2

    Ties go to the lowest class index. A class is skipped when it is the origin, when ``||w_k||`` is
    not finite or at or below the smallest normal number, or when its distance is not finite. If all
    classes are skipped the sample is stalled: ``winner = -1``, ``distance = inf``, ``r = 0``; never
    NaN. Norms are accumulated in float64. One read of `rows` and one write of `r`.

    Args:
        logits: [N, C]; float32, float64, float16 or bfloat16.
        rows: [N, C, D], ``dz_c/dx`` flattened; dtype and device of `logits`.
        origin: [N] int64, the column of the class to leave, in 0 .. C - 1.
        floor: a length in input units added to every step (1e-4 in the LTS4 code).

    Returns:
        r [N, D] in the dtype of `rows`; winner [N] int64; distance [N], float32 for half types.
        r and distance are differentiable in `logits` and `rows`, any number of times, with the
        winner held constant.

    Raises:
        TypeError: a dtype is not as above. ValueError: a shape, device or value is not.

    Source: Moosavi-Dezfooli, Fawzi & Frossard 2016, algorithm 2.
    """
    checks.floating("logits", logits)
    checks.shape("logits", logits, "[N, C]", (None, None))
    if logits.shape[1] < 1:
        raise ValueError(f"logits must have at least one class; got {list(logits.shape)}")
    checks.floating("rows", rows)
    checks.shape("rows", rows, "[N, C, D]", (*logits.shape, None))
    checks.same("rows", rows, "logits", logits)
    checks.class_index("origin", origin, logits.shape[0], logits)
    if origin.device.type == "cpu" and origin.numel():  # on a GPU the look would synchronise
        low, high = int(origin.min()), int(origin.max())
        if low < 0 or high >= logits.shape[1]:
            raise ValueError(
                f"origin must lie in 0 .. C - 1 = {logits.shape[1] - 1}; got {low} .. {high}"
            )
    floor = at_least("floor", floor, 0)
    differentiate = torch.is_grad_enabled() and (logits.requires_grad or rows.requires_grad)
    if not lives.native(rows):
        return reference(logits, rows, origin, floor)
    step = lives.call("deepfool_step", logits.detach(), rows.detach(), origin, floor)
    return _solve(logits, rows, origin, step[1], floor) if differentiate else step


def reference(
    logits: Tensor, rows: Tensor, origin: Tensor, floor: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Compute `deepfool_step` in PyTorch: the definition."""
    acc = checks.accumulator(rows.dtype)
    f = logits.detach().to(acc)
    f = f - f.gather(1, origin[:, None])
    w = rows.detach().to(acc)
    w = w - w[torch.arange(len(w), device=w.device), origin][:, None]
    norm = torch.linalg.vector_norm(w, dim=2, dtype=torch.float64)
    distance = usable_distance(f, norm).scatter(1, origin[:, None], float("inf"))
    nearest, winner = distance.min(dim=1)
    return _solve(logits, rows, origin, torch.where(nearest.isfinite(), winner, -1), floor)


def usable_distance(f: Tensor, norm: Tensor) -> Tensor:
    """Return |f|/norm in the dtype of `f`, infinite where the class is to be skipped."""
    distance = (f.to(torch.float64).abs() / norm).to(f.dtype)
    usable = (norm > torch.finfo(f.dtype).tiny) & norm.isfinite() & distance.isfinite()
    return torch.where(usable, distance, float("inf"))


def _solve(
    logits: Tensor, rows: Tensor, origin: Tensor, winner: Tensor, floor: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Compute r and distance for a known winner, in differentiable ops; only two rows matter."""
    acc = checks.accumulator(rows.dtype)
    stalled, at = winner < 0, winner.clamp(min=0)
    sample = torch.arange(len(winner), device=winner.device)
    f = logits[sample, at].to(acc) - logits[sample, origin].to(acc)
    w = rows[sample, at].to(acc) - rows[sample, origin].to(acc)
    f, w = torch.where(stalled, 0, f), torch.where(stalled[:, None], 1, w)
    norm = torch.linalg.vector_norm(w, dim=1, dtype=torch.float64)
    distance = f.to(torch.float64).abs() / norm
    length = torch.where(stalled, 0, distance + floor)
    unit = w / norm.to(acc)[:, None]  # first: length / norm alone may overflow
    r = (unit * length.to(acc)[:, None]).to(rows.dtype)
    return r, winner, torch.where(stalled, float("inf"), distance).to(acc)


if "cpu" in lives.BUILT:

    @torch.library.register_fake("jacfast::deepfool_step")
    def _(logits: Tensor, rows: Tensor, origin: Tensor, floor: float):
        samples = logits.shape[0]
        distance = logits.new_empty(samples, dtype=checks.accumulator(logits.dtype))
        return rows.new_empty(samples, rows.shape[2]), origin.new_empty(samples), distance
