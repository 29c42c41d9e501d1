"""The choices of DeepFool: their rules, and the presets that reproduce other implementations."""

import dataclasses
import math
from typing import Literal, get_args

import torch
from torch import Tensor

from jacfast import checks
from jacfast.attacks.box import Box, Clip, box_of, check_bounds
from jacfast.ops.checks import accumulator, floating, shape

Point = Literal["overshot", "plain"]
Variant = Literal["deepfool", "super"]
POINTS: tuple[str, ...] = get_args(Point)
VARIANTS: tuple[str, ...] = get_args(Variant)

# Arguments of `deepfool` for the semantics of others: `deepfool(model, x, **PRESETS["lts4"])`.
# foolbox and adv-lib start from given labels: pass y as well.
PRESETS: dict[str, dict] = {
    # Algorithm 2 of the paper: every class, no box, overshoot added at the end.
    "paper": {"candidates": None, "linearize": "plain", "test": "plain", "steps": 100},
    # The authors' Python code: ten classes, 1e-4 added to each step.
    "lts4": {"candidates": 10, "floor": 1e-4, "steps": 50},
    # foolbox 3.3: the same, and the iterate, not the sum of the steps, is clipped.
    "foolbox": {"candidates": 10, "floor": 1e-4, "clip": (0.0, 1.0), "steps": 50},
    # adv-lib 0.2: every class, each step clipped.
    "advlib": {
        "candidates": None,
        "floor": 1e-4,
        "clip": (0.0, 1.0),
        "clip_steps": True,
        "steps": 100,
    },
    # ART 1.20: ten classes, each step clipped, hardly any overshoot, and that at the end.
    "art": {
        "candidates": 10,
        "overshoot": 1e-6,
        "linearize": "plain",
        "test": "plain",
        "clip": (0.0, 1.0),
        "clip_steps": True,
        "steps": 100,
    },
}


@dataclasses.dataclass(frozen=True)
class Options:
    """The choices of one call of `deepfool`; that docstring says what each means."""

    candidates: int | None
    overshoot: float
    steps: int
    linearize: Point
    test: Point
    floor: float = 0.0
    clip: Clip = None
    clip_steps: bool = False
    p: float = 2.0
    max_norm: float | None = None
    mask: Tensor | None = None
    subspace: Tensor | None = None
    variant: Variant = "deepfool"
    batch_size: int | None = None
    # clip, for the samples of `bound_to`, which makes the same of mask and subspace
    box: Box = dataclasses.field(default_factory=Box)

    @property
    def q(self) -> float:
        """The dual of p: gradients are measured in this norm."""
        return 1.0 if math.isinf(self.p) else self.p / (self.p - 1)

    def point(self, x: Tensor, r: Tensor, kind: str) -> Tensor:
        """Return x + r, or x + (1 + overshoot) r, inside the box."""
        scale = 1 + self.overshoot if kind == "overshot" else 1.0
        return self.box.clamp(torch.add(x, r, alpha=scale))

    def restrict(self, w: Tensor) -> Tensor:
        """Return the gradient [..., D] as far as the mask or the subspace lets r follow it."""
        if self.mask is not None:
            return w * self.mask
        if self.subspace is not None:  # a coordinate can be as long as w
            wide = w.to(self.subspace.dtype)
            return ((wide @ self.subspace.T) @ self.subspace).to(w.dtype)
        return w

    def check(self) -> None:
        """Check every choice by itself; the message names argument, rule and value."""
        if self.clip is not None:
            check_bounds("clip", self.clip)
        if self.candidates is not None:
            checks.count("candidates", self.candidates, 2)
        for name in ("overshoot", "floor"):
            checks.at_least(name, getattr(self, name), 0)
        checks.count("steps", self.steps)
        for name in ("linearize", "test"):
            checks.one_of(name, getattr(self, name), POINTS)
        checks.number("p", self.p)
        if not self.p > 1:
            raise ValueError(f"p must be > 1 (inf for the maximum norm); got {self.p}")
        if self.subspace is not None and self.p != 2:  # other steps leave the span of a gradient
            raise ValueError(f"p must be 2 with a subspace; got {self.p}")
        if self.max_norm is not None:
            checks.number("max_norm", self.max_norm)
            if not self.max_norm > 0:
                raise ValueError(f"max_norm must be > 0; got {self.max_norm}")
        checks.flag("clip_steps", self.clip_steps)
        if self.clip_steps and self.clip is None:
            raise ValueError("clip_steps needs clip, the box; got clip=None")
        checks.one_of("variant", self.variant, VARIANTS)
        if self.variant == "super":
            for name, value, needed in (("p", self.p, 2), ("max_norm", self.max_norm, None)):
                if value != needed:
                    raise ValueError(f"variant='super' needs {name}={needed}; got {value}")
        if self.batch_size is not None:
            checks.count("batch_size", self.batch_size)

    def bound_to(self, x: Tensor) -> "Options":
        """Check the choices that x must fit; return them with box and restriction of such samples.

        What is on another device or of another type would be copied in every iteration.
        """
        box = box_of(self.clip, x)
        box.check(x)
        self._check_restriction(x)
        mask, subspace = self.mask, self.subspace
        if mask is not None:
            mask = mask.detach().to(x).flatten()
        if subspace is not None:
            subspace = subspace.detach().to(x.device, accumulator(x.dtype))
        return dataclasses.replace(self, box=box, mask=mask, subspace=subspace)

    def _check_restriction(self, x: Tensor) -> None:
        if self.mask is not None and self.subspace is not None:
            raise ValueError("give mask or subspace; got both")
        if self.mask is not None and not isinstance(self.mask, Tensor):
            raise TypeError(f"mask must be a torch.Tensor; got {type(self.mask).__name__}")
        if self.mask is not None and self.mask.shape != x.shape[1:]:
            raise ValueError(
                f"mask must have the shape of one sample, {list(x.shape[1:])}; "
                f"got {list(self.mask.shape)}"
            )
        if self.mask is not None and not bool(((self.mask == 0) | (self.mask == 1)).all()):
            raise ValueError("mask must hold nothing but 0 and 1, or be bool; got other values")
        if self.subspace is None:
            return
        floating("subspace", self.subspace)
        shape("subspace", self.subspace, "[m, D]", (None, x[0].numel()))
        rows = self.subspace.detach().double()
        off = float((rows @ rows.T - torch.eye(len(rows), device=rows.device)).abs().max())
        if off > 1e-3:
            raise ValueError(
                f"subspace must have orthonormal rows; the products are off by {off:.3g}"
            )
