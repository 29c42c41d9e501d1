"""The models and images of a picture."""

import dataclasses

import torch
from torch import Tensor, nn

from jacfast.attacks import DeepFoolResult
from jacfast.attacks.deepfool import deepfool
from jacfast.calling import classes_of
from jacfast.evaluation.predict import predict


class NothingKnown(ValueError):
    """There is no image that all models classify correctly, as a picture needs one."""


@dataclasses.dataclass(frozen=True)
class Subject:
    """What a picture is of."""

    models: dict[str, nn.Module]
    x: Tensor  # [N, 1 or 3, H, W]
    y: Tensor  # [N]
    image: int | None  # the one for pictures of one image; None: one that all models know

    def attacked(self, x: Tensor) -> dict[str, DeepFoolResult]:
        return {name: deepfool(model, x) for name, model in self.models.items()}

    def known(self) -> Tensor:
        """Return the indices of the images that all models classify correctly: one at least."""
        labels = [classes_of(predict(model, self.x)) for model in self.models.values()]
        right = torch.stack([label == self.y for label in labels]).all(dim=0)
        if not bool(right.any()):
            raise NothingKnown("no test image is classified correctly by every model")
        return right.nonzero().flatten()

    def one(self) -> tuple[Tensor, Tensor]:
        """Return the image [1, ...] and its label [1]."""
        known = self.known().tolist()
        i = known[0] if self.image is None else self.image
        if i not in known:
            raise ValueError(
                f"--image must be below {len(self.x)} and one that every model classifies "
                f"correctly, {known[0]} for example; got {i}"
            )
        return self.x[i : i + 1], self.y[i : i + 1]
