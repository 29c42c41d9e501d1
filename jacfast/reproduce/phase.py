"""One phase of training, as a table's file says it."""

import dataclasses
from typing import Any

from jacfast.checks import above_zero, at_least, count, one_of
from jacfast.training.defence import Place

OPTIMIZERS = ("adam", "adamw", "sgd")
SCHEDULES = ("constant", "cosine", "one-cycle")
PRECISIONS = ("float32", "bfloat16")


@dataclasses.dataclass(frozen=True)
class Training:
    """One phase of training; what the loss is made of see `parts.loss`, how it is gone down
    `recipe`.

    Args:
        epochs, batch_size: >= 1.
        optimizer: ``"adam"``, ``"adamw"`` or ``"sgd"``.
        lr: its step size, > 0; with a schedule the largest.
        momentum: of SGD, in [0, 1).
        weight_decay: of AdamW and SGD, >= 0.
        schedule: of the step size over the steps of the phase: ``"constant"``, ``"cosine"`` down to
            0, or ``"one-cycle"``, up and down (`torch.optim.lr_scheduler.OneCycleLR`).
        crop_padding: each image of a batch is cropped at random from itself with so many zeros
            around; 0: not.
        horizontal_flip: each image of a batch is mirrored with probability 1/2.
        precision: of the products of a step, weights, sums and the loss being float32:
            ``"bfloat16"`` is `torch.autocast` where the device has instructions for it, else
            float32, with the channels of images last.
        lam: the weight of the penalty, >= 0.
        smoothing: of the labels, in [0, 1).
        mode: of dropout, while training: ``"train"`` or ``"eval"``.

    Raises:
        TypeError, ValueError: one of these is not as above.
    """

    epochs: int = 1
    batch_size: int = 500
    optimizer: str = "adam"
    lr: float = 1e-3
    momentum: float = 0.0
    weight_decay: float = 0.0
    schedule: str = "constant"
    crop_padding: int = 0
    horizontal_flip: bool = False
    precision: str = "float32"
    lam: float = 0.0
    penalty: dict[str, Any] = dataclasses.field(default_factory=dict)
    attack: dict[str, Any] = dataclasses.field(default_factory=dict)
    once: bool = False  # attack a share of the images before the phase, not of a batch in its step
    share: float = 1.0
    twins: bool = False
    penalise: Place = "clean"
    smoothing: float = 0.0
    layer: str | None = None
    mode: str = "eval"

    def __post_init__(self) -> None:
        count("epochs", self.epochs)
        count("batch_size", self.batch_size)
        one_of("mode", self.mode, ("train", "eval"))
        at_least("lam", self.lam, 0)
        one_of("optimizer", self.optimizer, OPTIMIZERS)
        one_of("schedule", self.schedule, SCHEDULES)
        one_of("precision", self.precision, PRECISIONS)
        above_zero("lr", self.lr)
        at_least("momentum", self.momentum, 0)
        if self.momentum >= 1:
            raise ValueError(f"momentum must be in [0, 1); got {self.momentum}")
        at_least("weight_decay", self.weight_decay, 0)
        if self.momentum and self.optimizer != "sgd":
            raise ValueError(f"momentum must be left out but for sgd; got {self.optimizer}")
        if self.weight_decay and self.optimizer == "adam":
            raise ValueError("weight_decay must be left out for adam (adamw has it); got adam")
        count("crop_padding", self.crop_padding, 0)
        if not isinstance(self.horizontal_flip, bool):
            raise TypeError(f"horizontal_flip must be true or false; got {self.horizontal_flip!r}")
        at_least("smoothing", self.smoothing, 0)
        if self.smoothing >= 1:
            raise ValueError(f"smoothing must be in [0, 1); got {self.smoothing}")
