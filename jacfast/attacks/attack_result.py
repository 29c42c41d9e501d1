"""What an attack found, whatever attack it was."""

import dataclasses
import math
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor

from jacfast import checks
from jacfast.attacks.box import Clip, box_of, words
from jacfast.calling import Call, Model, classes_of, logits_of, quiet
from jacfast.files import damage, in_one_move
from jacfast.ops.checks import accumulator


@dataclasses.dataclass(frozen=True, repr=False)
class AttackResult:
    """The images of an attack on N samples, and what they do; tensors on the device of x.

    Every attack has it: ``jacfast.pgd.result(model, x, y, eps=8 / 255)``.

    Attributes:
        adversarial: [N, ...], the perturbed inputs.
        r: [N, ...], ``adversarial - x``.
        norm: [N], ``||r||_p``; float32 for half types, else in the dtype of x.
        success: [N] bool: the class of `adversarial`, evaluated anew, is as was wanted.
        before: [N] int64, the class to leave.
        label: [N] int64, the class of `adversarial`; -1 where a logit is NaN or +inf.
        p: the norm.
        radius: of the ball around x that the attack kept to, but for the rounding of x + r; inf if
            to none.
    """

    adversarial: Tensor
    r: Tensor
    norm: Tensor
    success: Tensor
    before: Tensor
    label: Tensor
    p: float = dataclasses.field(default=2.0, kw_only=True)
    radius: float = dataclasses.field(default=math.inf, kw_only=True)

    def __post_init__(self) -> None:
        # NumPy's numbers, too: a file has them in Python's words
        checks.keep(self, p=float(self.p), radius=float(self.radius))

    @classmethod
    def cat(cls, parts: list[Self]) -> Self:
        """Join the results of consecutive batches; raises ValueError for none, or two norms.

        The radius is the largest of theirs.
        """
        if len(norms := {part.p for part in parts}) != 1:
            raise ValueError(f"parts must be results in one norm; got p = {sorted(norms)}")
        joined = {name: torch.cat([getattr(part, name) for part in parts]) for name in cls.names()}
        return cls(**joined, p=parts[0].p, radius=max(part.radius for part in parts))

    @classmethod
    def names(cls) -> tuple[str, ...]:
        """Return the names of the tensors."""
        fields = dataclasses.fields(cls)
        return tuple(field.name for field in fields if field.name not in ("p", "radius"))

    def __repr__(self) -> str:
        figures, kind = self.figures(), str(self.r.dtype).removeprefix("torch.")
        norm, fooled = f"||r||_{self.p:g}", f"{figures['fooled, %']:.4g}% fooled"
        mean = f"their mean {norm} {figures[f'{norm}, mean of fooled']:.4g}"
        return f"{type(self).__name__}({kind}{list(self.r.shape)}, {fooled}, {mean})"

    def summary(self) -> str:
        """Return a table: how many were fooled, how far away, and what it cost.

        The norms are those of the samples that were fooled, NaN if none was: how far the others are
        is unknown. So read them with the share that was fooled: an attack that finds less has other
        samples in its mean. Samples that were another class from the start, and stayed where they
        were (of labels that were given), are in neither.
        """
        rows = {name: _shown(name, value) for name, value in self.figures().items()}
        width = max(map(len, rows))
        return "\n".join(f"{name:<{width}}  {value:>9}" for name, value in rows.items())

    def figures(self) -> dict[str, float]:
        """Return the figures of `summary` by their names."""
        left = ~self.success | (self.norm > 0)  # for the attack to do
        norm = self.norm[self.success & left].double()
        return {
            "samples": len(self.norm),
            "fooled, %": 100 * float(self.success[left].double().mean()),
            f"||r||_{self.p:g}, mean of fooled": float(norm.mean()),
            f"||r||_{self.p:g}, median of fooled": float(norm.median()),
            f"||r||_{self.p:g}, largest of fooled": max(norm.tolist(), default=math.nan),
        }

    def clean_label(self) -> Tensor:
        """Return the class of each sample as it was [N] int64, as far as the result knows it.

        It is `before`, but for samples that are left as they were: of labels that were given,
        `before` says nothing of the model, and such a sample may have been another class at once.
        `fgsm`, `bim`, `pgd`, and `jsma` with ``stop=False``, move that one, too, and its class is
        unknown then.
        """
        return torch.where(self.norm == 0, self.label, self.before)

    def tensors(self) -> dict[str, Tensor]:
        """Return every tensor by its name."""
        return {name: getattr(self, name) for name in self.names()}

    def about(self) -> dict[str, str]:
        """Return what a file says of itself beside the tensors."""
        return {"jacfast": type(self).__name__, "p": repr(self.p), "radius": repr(self.radius)}

    def save(self, path: str | Path) -> None:
        """Write every tensor to a safetensors file, in one move; the folder must exist."""
        from safetensors.torch import save_file

        tensors = {name: tensor.contiguous() for name, tensor in self.tensors().items()}
        with in_one_move(checks.file("path", path)) as part:
            save_file(tensors, part, metadata=self.about())

    @classmethod
    def load(
        cls, path: str | Path, device: str | torch.device = "cpu", *, images: bool = True
    ) -> Self:
        """Read what `save` wrote; raises ValueError for a file of something else, or damaged.

        Args:
            path: the file.
            device: of the tensors.
            images: else `adversarial` and `r`, nearly all of a file, are left unread, and have no
                sample; all figures are there.
        """
        from safetensors import SafetensorError, safe_open

        path = checks.path("path", path)
        try:
            with safe_open(path, framework="pt", device=str(device)) as file:
                about, kind = file.metadata() or {}, cls.__name__
                if about.get("jacfast") != kind or not {*cls.names()} <= set(file.keys()):
                    raise ValueError(f"path must be a file that {kind}.save wrote; got {path}")
                left = () if images else ("adversarial", "r")
                tensors = {
                    name: file.get_slice(name)[:0] if name in left else file.get_tensor(name)
                    for name in cls.names()
                }
        except SafetensorError as error:
            raise ValueError(f"{path} cannot be read, {damage(path, error)}") from error
        return cls(**tensors, p=float(about["p"]), radius=float(about["radius"]))

    @torch.no_grad()
    def survives_rounding(
        self, model: Model, levels: int = 256, box: Clip = (0.0, 1.0), **arguments: Any
    ) -> Tensor:
        """Say per sample whether `adversarial` has the same class, and success, as saved pixels.

        Saving an image rounds to `levels` values of the box, and an overshoot of 2% can be less
        than that: ``low + (high - low) round((levels - 1) (x' - low)/(high - low))/(levels - 1)``.
        Entries outside the box are clipped, as an image file would.

        Args:
            model: the one that was attacked; evaluated in eval mode and left as it was.
            levels: how many values an entry can have, >= 2.
            box: (low, high), the least and the largest of them, in units of x; finite. Numbers, or
                tensors that broadcast to a sample: [C, 1, 1] holds a bound for each channel.
            arguments: args, kwargs and output of the model, as they were given to the attack.

        Returns:
            [N] bool: success that is still there after rounding.

        Raises:
            TypeError: levels is not an integer. ValueError: levels or box is wrong.
        """
        checks.count("levels", levels, 2)
        valid = box_of(box, self.adversarial, name="box")
        if not valid.bounded:
            raise ValueError(f"box must be finite, (low, high), to have levels; got {words(box)}")
        kind = self.adversarial.dtype
        point = valid.clamp(self.adversarial).to(accumulator(kind))  # which holds all levels
        rounded = valid.rounded(point, levels).to(kind)
        call = Call(model, len(rounded), **arguments)
        with quiet(call, gradients=False):
            logits = logits_of(call, rounded)
        return self.success & (classes_of(logits) == self.label)


def _shown(name: str, value: float) -> str:
    if isinstance(value, int):
        return str(value)
    digits = ".4g" if name.startswith("||r||") else ".1f" if name.startswith("vector") else ".2f"
    return f"{value:{digits}}"
