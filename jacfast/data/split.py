"""A data set, as every reader returns it."""

import dataclasses

from torch import Tensor


@dataclasses.dataclass(frozen=True)
class Split:
    """Training and test images, float32 [N, C, H, W] in [0, 1], with labels int64 [N]."""

    train_x: Tensor
    train_y: Tensor
    test_x: Tensor
    test_y: Tensor
    classes: int
    name: str
