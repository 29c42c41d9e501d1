"""The DeepFool step in streaming form, one candidate class at a time: see `deepfool_candidate`."""

from typing import NamedTuple

import torch
from torch import Tensor

from jacfast.one_line import one_line
from jacfast.ops import checks, lives
from jacfast.ops.deepfool_step import usable_distance


class Nearest(NamedTuple):
    """The nearest linearised boundary seen so far, per sample; updated in place.

    Attributes:
        w: [N, D], ``z_k - z_origin`` differentiated at x, for the nearest class k.
        distance: [N], ``|f_k| / ||w_k||``; infinite while no class was usable.
        norm: [N], ``||w_k||``.
        winner: [N] int64, k; -1 while no class was usable.
    """

    w: Tensor
    distance: Tensor
    norm: Tensor
    winner: Tensor

    @staticmethod
    def empty(samples: int, size: int, like: Tensor) -> "Nearest":
        """Return the state before the first candidate, in the dtype and on the device of `like`."""
        acc = checks.accumulator(like.dtype)
        return Nearest(
            w=like.new_zeros(samples, size),
            distance=like.new_full((samples,), float("inf"), dtype=acc),
            norm=like.new_ones(samples, dtype=acc),
            winner=like.new_full((samples,), -1, dtype=torch.int64),
        )

    def step(self, floor: float = 0.0, q: float = 2.0) -> Tensor:
        """Return the step of p-norm distance + floor [N, D]; zero for a stalled sample.

        ``(distance + floor) sign(w) (|w| / ||w||_q)^(q - 1)`` with q = p/(p - 1): w / ||w|| for
        q = 2, sign(w) for q = 1. `norm` must hold ||w||_q.
        """
        return self.along(torch.where(self.winner < 0, 0, self.distance + floor), q)

    def along(self, length: Tensor, q: float = 2.0) -> Tensor:
        """Return the step of these lengths [N] in the direction of `step`."""
        return (self.direction(q) * length[:, None]).to(self.w.dtype)

    def add_to(self, r: Tensor, length: Tensor, q: float = 2.0) -> Tensor:
        """Return r [N, ...] and the step of `along`."""
        return self.along(length, q).view_as(r).add_(r)

    def direction(self, q: float = 2.0) -> Tensor:
        """Return the step of length one, in the dtype of `norm`."""
        w = self.w.to(self.norm.dtype)
        if q == 1:
            return w.sign()
        unit = w / self.norm[:, None]  # first: length / norm may overflow
        return unit if q == 2 else unit.abs().pow_(q - 1).copysign_(unit)

    def __repr__(self) -> str:
        return one_line(self)


def deepfool_candidate(w: Tensor, f: Tensor, label: Tensor, nearest: Nearest) -> None:
    """Offer one candidate class per sample to the running nearest boundary, in place.

    With ``distance = |f| / ||w||_2``, sample i takes the candidate when its distance is smaller
    than ``nearest.distance``, or equal with a lower class index: whatever the order of the calls,
    the result is that of `deepfool_step` on all candidates at once. Candidates are skipped by the
    rules of `deepfool_step`. Memory: O(N D) for any number of classes.

    Args:
        w: [N, D], the gradient of ``z_label - z_origin``; float32, float64, float16 or bfloat16.
        f: [N], the value of ``z_label - z_origin``, in the dtype of `w`.
        label: [N] int64, the candidate's class index, >= 0, one per sample.
        nearest: the state, from `Nearest.empty`; changed in place.

    Raises:
        TypeError: a dtype is not as above. ValueError: a shape or device is not, or a tensor
            requires grad (the running state has no derivative; use `deepfool_step`).

    Source: Moosavi-Dezfooli, Fawzi & Frossard 2016, algorithm 2, lines 5 to 8.
    """
    checks.floating("w", w)
    checks.shape("w", w, "[N, D]", (None, None))
    samples, size = w.shape
    for name, tensor in (("f", f), ("nearest.w", nearest.w)):
        checks.floating(name, tensor)
        checks.same(name, tensor, "w", w)
    checks.shape("f", f, "[N]", (samples,))
    checks.class_index("label", label, samples, w)
    checks.shape("nearest.w", nearest.w, "[N, D]", (samples, size))
    if torch.is_grad_enabled() and (w.requires_grad or f.requires_grad):
        raise ValueError(
            "w and f must not require grad: the running state has no derivative "
            "(deepfool_step has one); got requires_grad=True"
        )
    if lives.native(w):
        lives.call("deepfool_candidate", w, f, label, *nearest)
    else:
        reference(w, f, label, nearest)


def reference(w: Tensor, f: Tensor, label: Tensor, nearest: Nearest) -> None:
    """Compute `deepfool_candidate` in PyTorch: the definition."""
    keep_nearer(w, f, label, torch.linalg.vector_norm(w, dim=1, dtype=torch.float64), nearest)


def keep_nearer(w: Tensor, f: Tensor, label: Tensor, norm: Tensor, nearest: Nearest) -> None:
    """Keep the candidate where |f|/norm is nearer than what is kept; `norm` [N] float64."""
    distance = usable_distance(f.to(nearest.distance.dtype), norm)
    closer = (distance < nearest.distance) | (
        (distance == nearest.distance) & (label < nearest.winner)
    )
    nearest.w.copy_(torch.where(closer[:, None], w, nearest.w))
    nearest.distance.copy_(torch.where(closer, distance, nearest.distance))
    nearest.norm.copy_(torch.where(closer, norm.to(nearest.norm.dtype), nearest.norm))
    nearest.winner.copy_(torch.where(closer, label, nearest.winner))


if "cpu" in lives.BUILT:

    @torch.library.register_fake("jacfast::deepfool_candidate")
    def _(w, f, label, nearest_w, distance, norm, winner) -> None:
        return None
