"""Sizes and bounds in the units of x: one number, or a tensor of one for each channel or entry."""

import dataclasses
import math
from typing import Any

import torch
from torch import Tensor

from jacfast.checks import above_zero, at_least, is_number, number

# A tensor broadcasts to a sample: [C, 1, 1] for images, also [1, C, 1, 1]; lengths (eps, step_size)
# broadcast to x: [N, 1, 1, 1] is one for each sample.
Size = float | Tensor
Clip = tuple[Size, Size] | None


@dataclasses.dataclass(frozen=True)
class Box:
    """The valid inputs, ``low <= x <= high``; everything, unless bounds are given."""

    low: Size = -math.inf
    high: Size = math.inf
    eps: float = 0.0  # the machine epsilon of the bounds as they were given, the coarser one's

    @property
    def bounded(self) -> bool:
        """Say whether no valid input is far away."""
        return math.isfinite(self.width)

    @property
    def width(self) -> float:
        """Return the largest width of a channel or entry, the unit in which the box is one long."""
        return float(tensor_of(self.high - self.low).max())

    def unless_zero(self, size: Tensor) -> Tensor:
        """Return lengths of samples [N]; for those that are zero the width, or 1 without a box."""
        return torch.where(size > 0, size, self.width if self.bounded else 1)

    def clamp(self, x: Tensor) -> Tensor:
        """Return the nearest valid input."""
        if not isinstance(self.low, Tensor) and (self.low, self.high) == (-math.inf, math.inf):
            return x
        return x.clamp(self.low, self.high)  # type: ignore[arg-type]  # both tensors or neither

    def rounded(self, x: Tensor, levels: int) -> Tensor:
        """Return x rounded to `levels` equally spaced values, low to high, of a finite box."""
        unit = ((x - self.low) / (self.high - self.low) * (levels - 1)).round()
        return self.low + (self.high - self.low) * unit / (levels - 1)

    def check(self, x: Tensor, name: str = "x") -> None:
        """Check that x lies in the box: clipping alone would change it.

        A bound may be passed by a rounding of the box's values, as in ``(0 - mean) / std`` of
        images normalised in another order, or taken back, in the coarser dtype of x and of the
        bounds as they were given; what is NaN is not looked at.
        """
        ends = torch.cat([tensor_of(end).flatten().cpu() for end in (self.low, self.high)])
        largest = torch.where(ends.isfinite(), ends.abs(), 0).max()
        slack = 2 * max(torch.finfo(x.dtype).eps, self.eps) * float(largest)
        beyond = x[(x < self.low - slack) | (x > self.high + slack)]
        if beyond.numel():
            raise ValueError(
                f"{name} must lie in the box clip = {words((self.low, self.high))}; got "
                f"{float(beyond.min()):.4g} .. {float(beyond.max()):.4g} (give the box of your "
                "inputs, or clip=None)"
            )


def tensor_of(size: Size) -> Tensor:
    """Return a tensor as it is, and a number as one on the CPU, whatever the default device is."""
    return size if isinstance(size, Tensor) else torch.as_tensor(size, device="cpu")


def box_of(clip: Clip, x: Tensor, *, name: str = "clip") -> Box:
    """Return the box, on the device and in the dtype of x [N, ...]; check the bounds by x."""
    if clip is None:
        return Box()
    check_bounds(name, clip)
    low, high = (per_entry(name, bound, x) for bound in clip)
    if isinstance(low, Tensor) or isinstance(high, Tensor):
        low, high = (tensor_of(bound).to(x) for bound in (low, high))
    return Box(low, high, max(map(_eps, clip)))


def _eps(bound: Size) -> float:
    """Return the machine epsilon of a bound; 0 of an exact one, a number of Python's own."""
    if isinstance(bound, float | int):
        return 0.0
    kind = tensor_of(bound).dtype  # of NumPy's numbers, too
    return torch.finfo(kind).eps if kind.is_floating_point else 0.0


def check_bounds(name: str, clip: Any) -> None:
    """Check bounds by themselves: a pair of numbers or tensors, low < high in every entry."""
    if isinstance(clip, tuple | list) and len(clip) == 2:
        for bound in clip:
            if not is_number(bound) and not isinstance(bound, Tensor):
                kind = type(bound).__name__
                raise TypeError(f"{name} must hold numbers or tensors, (low, high); got {kind}")
            if isinstance(bound, Tensor):
                _check_values(name, bound)
        low, high = (tensor_of(bound).detach().cpu() for bound in clip)
        try:
            if bool((low < high).all()):
                return
        except RuntimeError as error:  # shapes that do not fit each other
            shapes = [list(tensor_of(bound).shape) for bound in clip]
            raise ValueError(f"{name} must be (low, high) of one shape; got {shapes}") from error
    got = f"a tensor of shape {list(clip.shape)}" if isinstance(clip, Tensor) else words(clip)
    got += "" if isinstance(clip, tuple | list) else ", no tuple"
    raise ValueError(f"{name} must be (low, high) with low < high; got {got}")


def _check_values(name: str, size: Tensor) -> None:
    """Check a tensor of numbers: real, and there."""
    if size.is_complex() or size.is_meta or not size.numel():
        raise ValueError(f"{name} must hold real numbers where it is a tensor; got {words(size)}")


def per_entry(name: str, value: Size, x: Tensor, *, each: bool = False) -> Size:
    """Return a number as it is; a tensor in the dtype and on the device of x, if it fits a sample.

    Or x, where `each` sample may have its own. A tensor with a single entry is a number.
    """
    if not isinstance(value, Tensor):
        return number(name, value)
    _check_values(name, value)
    value = value.detach()
    if value.numel() == 1:
        return float(value)
    room = x.shape if each else torch.Size((1, *x.shape[1:]))
    try:
        fits = torch.broadcast_shapes(value.shape, room) == room
    except RuntimeError:
        fits = False
    if not fits:
        to = f"a sample, {list(room[1:])} ([C, 1, 1] for the channels of images)"
        if each:
            own = [len(x), *[1] * (x.dim() - 1)]
            to = f"x, {list(room)} ([C, 1, 1] for the channels of images, {own} for the samples)"
        raise ValueError(
            f"{name} must be a number, or a tensor that broadcasts to {to}; "
            f"got shape {list(value.shape)}"
        )
    return value.to(x)


def length_of(name: str, value: Size, x: Tensor, *, zero: bool = True) -> Size:
    """Return a length as `per_entry` does of each; check that it is finite and >= 0, or > 0."""
    value = per_entry(name, value, x, each=True)
    for end in (value.min(), value.max()) if isinstance(value, Tensor) else (value,):
        at_least(name, float(end), 0) if zero else above_zero(name, float(end))
    return value


def rows_of(size: Size, here: Tensor, x: Tensor) -> Size:
    """Return the sizes of those samples of x, where each has its own."""
    own = isinstance(size, Tensor) and size.dim() == x.dim() and len(size) == len(x)
    return size[here] if own else size  # type: ignore[index]


def words(value: Any) -> str:
    """Return a size or bounds for a message, a tensor by its range."""
    if isinstance(value, tuple | list):
        return f"({', '.join(map(words, value))})"
    if isinstance(value, Tensor) and (value.is_meta or value.is_complex() or not value.numel()):
        return f"a tensor of shape {list(value.shape)}, {value.dtype} on {value.device}"
    if isinstance(value, Tensor) and value.numel() > 1:
        return f"{float(value.min()):.4g} .. {float(value.max()):.4g}"
    return str(float(value) if isinstance(value, Tensor) else value)
