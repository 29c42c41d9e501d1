"""A model together with the normalisation of its images."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from jacfast.checks import several
from jacfast.data.split import Split


class Normalize(nn.Module):
    """``(x - mean) / std``, a value for each channel of x [N, C, ...], or one for all of them.

    Raises:
        ValueError: mean and std differ in number, a value is not finite, or a std not above 0.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        for name, values in (("mean", mean), ("std", std)):
            numbers = torch.tensor(several(name, values), dtype=torch.float64)
            if len(numbers) == 0 or not bool(numbers.isfinite().all()):
                raise ValueError(
                    f"{name} must be finite numbers, one or one per channel; got {values}"
                )
            self.register_buffer(name, numbers)
        if len(self.mean) != len(self.std):
            raise ValueError(f"mean and std must be as many; got {len(mean)} and {len(std)}")
        if not bool((self.std > 0).all()):
            raise ValueError(f"std must be > 0; got {', '.join(f'{value:g}' for value in std)}")

    def forward(self, x: Tensor) -> Tensor:
        """Return x as the model was trained to see it."""
        mean, std = (v.to(x.dtype).view(-1, *[1] * (x.dim() - 2)) for v in (self.mean, self.std))
        return (x - mean) / std


class Normalized(nn.Sequential):
    """A model of images in [0, 1] that are normalised before it: attacks move in the images."""

    def __init__(self, model: nn.Module, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__(Normalize(mean, std), model)
        self.training = self[0].training = model.training


def normalized(
    model: nn.Module, mean: Sequence[float] | None, std: Sequence[float] | None, split: Split
) -> nn.Module:
    """Return the model behind a normalisation, or itself where none is given.

    Raises:
        ValueError: only one of the two is given, or they do not fit the channels of the images; or
            as `Normalize`.
    """
    if mean is None and std is None:
        return model
    if mean is None or std is None:
        raise ValueError("mean and std must be given together; got one alone")
    channels = split.test_x.shape[1]
    for name, values in (("mean", mean), ("std", std)):
        if len(values) not in (1, channels):
            raise ValueError(
                f"{name} must have one value, or one for each of the {channels} channels of "
                f"{split.name}; got {len(values)}"
            )
    return Normalized(model, mean, std)


def bare_model(model: nn.Module) -> nn.Module:
    """Return the user's own model, whose weights are saved."""
    return model[1] if isinstance(model, Normalized) else model
