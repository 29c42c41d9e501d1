"""What DeepFool found."""

import dataclasses
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from jacfast.attacks.box import Clip, box_of
from jacfast.attacks.checks import count
from jacfast.calling import Call, Model, logits_of, quiet
from jacfast.files import damage


@dataclasses.dataclass(frozen=True)
class DeepFoolResult:
    """The perturbation of each of N samples, and what it cost; tensors on the device of x."""

    adversarial: Tensor  # [N, ...], the perturbed inputs
    r: Tensor  # [N, ...], adversarial - x
    norm: Tensor  # [N], ||r||_p
    iterations: Tensor  # [N] int64, steps taken
    success: Tensor  # [N] bool: the class of `adversarial`, evaluated anew, is as was wanted
    before: Tensor  # [N] int64, the class to leave
    label: Tensor  # [N] int64, the class of `adversarial`
    stalled: Tensor  # [N] bool: no usable direction, or NaN or infinite logits
    vjps: Tensor  # [N] int64, vector-Jacobian products spent on the sample
    p: float = 2.0  # the norm

    @staticmethod
    def cat(parts: list["DeepFoolResult"]) -> "DeepFoolResult":
        """Join the results of consecutive batches."""
        return DeepFoolResult(
            **{name: torch.cat([part.tensors()[name] for part in parts]) for name in TENSORS},
            p=parts[0].p,
        )

    def clean_label(self) -> Tensor:
        """Return the class of each sample as it was [N] int64.

        It is `before`, but for samples that no step was taken for: of labels that were given,
        `before` says nothing of the model, and such a sample may have been another class at once.
        """
        return torch.where(self.iterations == 0, self.label, self.before)

    def summary(self) -> str:
        """Return a table: how many were fooled, how far away, and what it cost.

        The norms are those of all samples, of those not fooled the r that they had reached.
        """
        rows = {name: _shown(name, value) for name, value in self.figures().items()}
        width = max(map(len, rows))
        return "\n".join(f"{name:<{width}}  {value:>9}" for name, value in rows.items())

    def figures(self) -> dict[str, float]:
        """Return the figures of `summary` by their names."""
        norm, iterations = self.norm.double(), self.iterations.double()
        return {
            "samples": len(norm),
            "fooled, %": 100 * float(self.success.double().mean()),
            "stalled": int(self.stalled.sum()),
            f"||r||_{self.p:g}, mean": float(norm.mean()),
            f"||r||_{self.p:g}, median": float(norm.median()),
            f"||r||_{self.p:g}, largest": float(norm.max()),
            "iterations, mean": float(iterations.mean()),
            "iterations, most": int(iterations.max()),
            "vector-Jacobian products per sample": float(self.vjps.double().mean()),
        }

    def tensors(self) -> dict[str, Tensor]:
        """Return every tensor by its name."""
        return {name: getattr(self, name) for name in TENSORS}

    def about(self) -> dict[str, str]:
        """Return what a file says of itself beside the tensors."""
        return {"jacfast": "DeepFoolResult", "p": repr(self.p)}

    def save(self, path: str | Path) -> None:
        """Write every tensor to a safetensors file; the folder must exist."""
        from safetensors.torch import save_file

        tensors = {name: tensor.contiguous() for name, tensor in self.tensors().items()}
        save_file(tensors, path, metadata=self.about())

    @staticmethod
    def load(path: str | Path, device: str | torch.device = "cpu") -> "DeepFoolResult":
        """Read what `save` wrote; raises ValueError for a file of something else, or damaged."""
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(path, framework="pt", device=str(device)) as file:
                about = file.metadata() or {}
                if about.get("jacfast") != "DeepFoolResult" or not set(TENSORS) <= set(file.keys()):
                    raise ValueError(
                        f"path must be a file that DeepFoolResult.save wrote; got {path}"
                    )
                tensors = {name: file.get_tensor(name) for name in TENSORS}
        except SafetensorError as error:
            raise ValueError(f"{path} cannot be read, {damage(Path(path), error)}") from error
        return DeepFoolResult(**tensors, p=float(about["p"]))

    @torch.no_grad()
    def survives_rounding(
        self,
        model: Model,
        levels: int = 256,
        box: Clip = (0.0, 1.0),
        **arguments: Any,
    ) -> Tensor:
        """Say per sample whether `adversarial` has the same class, and success, as saved pixels.

        Saving an image rounds to `levels` values of the box, and an overshoot of 2% can be less
        than that: ``low + (high - low) round((levels - 1) (x' - low)/(high - low))/(levels - 1)``.
        Entries outside the box are clipped, as an image file would.

        Args:
            model: the one that was attacked; evaluated in eval mode and left as it was.
            levels: how many values an entry can have, >= 2.
            box: (low, high), the least and the largest of them, in units of x. Numbers, or tensors
                that broadcast to a sample: [C, 1, 1] holds a bound for each channel.
            arguments: args, kwargs and output of the model, as they were given to `deepfool`.

        Returns:
            [N] bool: success that is still there after rounding.

        Raises:
            TypeError: levels is not an integer. ValueError: levels or box is wrong.
        """
        count("levels", levels, 2)
        valid = box_of(box, self.adversarial, name="box")
        low, high = valid.low, valid.high
        unit = (valid.clamp(self.adversarial) - low) / (high - low)
        rounded = low + (high - low) * (unit * (levels - 1)).round() / (levels - 1)
        call = Call(model, len(rounded), **arguments)
        with quiet(model, gradients=False):
            logits = logits_of(call, rounded)
        sane = (logits < float("inf")).all(dim=1)
        return self.success & sane & (logits.argmax(dim=1) == self.label)


TENSORS = tuple(field.name for field in dataclasses.fields(DeepFoolResult) if field.name != "p")


def _shown(name: str, value: float) -> str:
    if isinstance(value, int):
        return str(value)
    digits = ".4g" if name.startswith("||r||") else ".1f" if name.startswith("vector") else ".2f"
    return f"{value:{digits}}"
