"""Max pooling whose choices can be used again: see `max_pool`."""

import torch
import torch.nn.functional as F
from torch import Tensor

from jacfast.ops import checks, lives

DEAD = 255  # the choice of a window that passes nothing on
Pair = tuple[int, int]


def max_pool(x: Tensor, kernel: Pair, stride: Pair, relu: bool = False) -> tuple[Tensor, Tensor]:
    """Take the maximum of each window of `x`, and say which entry it is.

    Windows of ``kernel`` entries start every ``stride`` entries and lie inside `x`; entries left
    over at the bottom and on the right are in none. Of equal entries the first one (in row-major
    order) is chosen, and a NaN before any number (of several, the last one), as in PyTorch. With
    `relu`, a window whose maximum is at most 0 has the value 0 and is dead: it has no derivative.
    That is ``max_pool2d(relu(x))``, and ``relu(max_pool2d(x))``, in one read.

    The value is differentiable any number of times: the derivative is ``max_pool_scatter`` with
    the choice, whose derivative is ``max_pool_gather``.

    Args:
        x: [N, C, H, W]; float32, float64, float16 or bfloat16.
        kernel: height and width of a window, at least 1, no larger than `x`, at most 255 entries.
        stride: distance of windows, down and across, at least 1.
        relu: take the maximum with 0 as well.

    Returns:
        y [N, C, H', W'] in the dtype of `x`, ``H' = (H - kernel[0]) // stride[0] + 1`` and likewise
        W'; and choice [N, C, H', W'] uint8: the place in the window, row * kernel[1] + column, or
        255 where the window is dead.

    Raises:
        TypeError: `x` is not a floating-point tensor, or kernel or stride not two integers.
        ValueError: `x` is not 4-D, or kernel or stride is out of range.

    Source: torch.nn.functional.max_pool2d, without padding, dilation and ceil_mode.
    """
    checks.floating("x", x)
    checks.shape("x", x, "[N, C, H, W]", (None, None, None, None))
    _windows((x.shape[2], x.shape[3]), kernel, stride)
    if not lives.native(x):
        return reference(x, kernel, stride, relu)
    y, choice = lives.call("max_pool", x, kernel, stride, relu)
    return y, choice


def max_pool_scatter(g: Tensor, choice: Tensor, size: Pair, kernel: Pair, stride: Pair) -> Tensor:
    """Put each entry of `g` where its window chose; the transpose of `max_pool_gather`.

    Where windows overlap, their entries add up, in row-major order of the windows; in float32 where
    `g` is float16 or bfloat16. A window is dead, and passes nothing on, where its choice is 255, or
    any other number beyond its entries. Differentiable any number of times with respect to `g`.

    Args:
        g: [N, C, H', W']; float32, float64, float16 or bfloat16.
        choice: [N, C, H', W'] uint8, from `max_pool`.
        size: (H, W) of what was pooled.
        kernel, stride: as they were in `max_pool`.

    Returns:
        [N, C, H, W], in the dtype of `g`.

    Raises:
        TypeError: a dtype is not as above. ValueError: a shape or device is not.
    """
    checks.floating("g", g)
    windows = _windows(size, kernel, stride)
    checks.shape("g", g, "[N, C, H', W']", (None, None, *windows))
    _check_choice(choice, g, "g", windows)
    if not lives.native(g):
        return scatter_reference(g, choice, size, kernel, stride)
    return lives.call("max_pool_scatter", g, choice, size, kernel, stride)


def max_pool_gather(t: Tensor, choice: Tensor, kernel: Pair, stride: Pair) -> Tensor:
    """Take the entries of `t` that the windows chose, 0 for dead ones.

    The derivative of `max_pool` in the direction `t`, and the transpose of `max_pool_scatter`.
    Differentiable any number of times with respect to `t`.

    Args:
        t: [N, C, H, W]; float32, float64, float16 or bfloat16.
        choice: [N, C, H', W'] uint8, from `max_pool`.
        kernel, stride: as they were in `max_pool`.

    Returns:
        [N, C, H', W'], in the dtype of `t`.

    Raises:
        TypeError: a dtype is not as above. ValueError: a shape or device is not.
    """
    checks.floating("t", t)
    checks.shape("t", t, "[N, C, H, W]", (None, None, None, None))
    _check_choice(choice, t, "t", _windows((t.shape[2], t.shape[3]), kernel, stride))
    if not lives.native(t):
        return gather_reference(t, choice, kernel, stride)
    return lives.call("max_pool_gather", t, choice, kernel, stride)


def _windows(size: Pair, kernel: Pair, stride: Pair) -> Pair:
    """Check the geometry and return how many windows there are, down and across."""
    for name, pair in (("size", size), ("kernel", kernel), ("stride", stride)):
        whole = isinstance(pair, tuple | list) and all(
            isinstance(n, int | torch.SymInt) for n in pair
        )
        if not whole or len(pair) != 2:
            raise TypeError(f"{name} must be two integers; got {pair!r}")
    for name, pair in (("kernel", kernel), ("stride", stride)):
        if min(pair) < 1:
            raise ValueError(f"{name} must be at least 1; got {tuple(pair)}")
    if kernel[0] * kernel[1] > DEAD:
        raise ValueError(f"kernel must have at most {DEAD} entries; got {tuple(kernel)}")
    if kernel[0] > size[0] or kernel[1] > size[1]:
        raise ValueError(
            f"kernel must be no larger than the size it pools, {tuple(size)}; got {tuple(kernel)}"
        )
    return (size[0] - kernel[0]) // stride[0] + 1, (size[1] - kernel[1]) // stride[1] + 1


def _check_choice(choice: Tensor, like: Tensor, name: str, windows: Pair) -> None:
    if not isinstance(choice, Tensor) or choice.dtype != torch.uint8:
        got = choice.dtype if isinstance(choice, Tensor) else type(choice).__name__
        raise TypeError(f"choice must be a uint8 tensor; got {got}")
    checks.shape("choice", choice, "[N, C, H', W']", (*like.shape[:2], *windows))
    checks.same_device("choice", choice, name, like)


def reference(x: Tensor, kernel: Pair, stride: Pair, relu: bool) -> tuple[Tensor, Tensor]:
    """Compute `max_pool` in PyTorch: the definition."""
    planes = x.detach().flatten(0, 1).unsqueeze(1)  # max_pool2d wants a channel
    value, index = (
        each.reshape(*x.shape[:2], *each.shape[2:])
        for each in F.max_pool2d(planes, kernel, stride, return_indices=True)
    )
    down, across = _starts(value, stride)
    width = x.shape[3]
    choice = (index // width - down) * kernel[1] + index % width - across
    if relu:
        choice = torch.where(value <= 0, DEAD, choice)
    choice = choice.to(torch.uint8)
    return gather_reference(x, choice, kernel, stride), choice


def scatter_reference(g: Tensor, choice: Tensor, size: Pair, kernel: Pair, stride: Pair) -> Tensor:
    """Compute `max_pool_scatter` in PyTorch: the definition."""
    index, alive = _chosen(choice, size[1], kernel, stride)
    wide = torch.where(alive, g.to(checks.accumulator(g.dtype)), 0).flatten(2)
    sums = wide.new_zeros(*g.shape[:2], size[0] * size[1])
    return sums.scatter_add(2, index.flatten(2), wide).unflatten(2, tuple(size)).to(g.dtype)


def gather_reference(t: Tensor, choice: Tensor, kernel: Pair, stride: Pair) -> Tensor:
    """Compute `max_pool_gather` in PyTorch: the definition."""
    index, alive = _chosen(choice, t.shape[3], kernel, stride)
    wide = t.to(checks.accumulator(t.dtype)).flatten(2)  # so that the derivative adds up in it
    chosen = wide.gather(2, index.flatten(2)).unflatten(2, choice.shape[2:])
    return torch.where(alive, chosen, 0).to(t.dtype)


def _chosen(choice: Tensor, width: int, kernel: Pair, stride: Pair) -> tuple[Tensor, Tensor]:
    """Return the index of each chosen entry in its plane (0 where dead), and who is alive."""
    down, across = _starts(choice, stride)
    alive = choice < kernel[0] * kernel[1]
    place = torch.where(alive, choice, 0).to(torch.int64)
    index = (down + place // kernel[1]) * width + across + place % kernel[1]
    return torch.where(alive, index, 0), alive


def _starts(windows: Tensor, stride: Pair) -> tuple[Tensor, Tensor]:
    """Return the first row [H', 1] and the first column [W'] of each window."""
    down, across = (
        torch.arange(count, device=windows.device) * step
        for count, step in zip(windows.shape[2:], stride, strict=True)
    )
    return down[:, None], across


def _save_choice(ctx, inputs, output) -> None:
    x, ctx.kernel, ctx.stride, _ = inputs
    ctx.size = (x.shape[2], x.shape[3])
    ctx.save_for_backward(output[1])


def _derivative(ctx, grad: Tensor, *_: Tensor | None):
    (choice,) = ctx.saved_tensors
    return max_pool_scatter(grad, choice, ctx.size, ctx.kernel, ctx.stride), None, None, None


def _save_scatter(ctx, inputs, output) -> None:
    _, choice, _, ctx.kernel, ctx.stride = inputs
    ctx.save_for_backward(choice)


def _derivative_of_scatter(ctx, grad: Tensor):
    (choice,) = ctx.saved_tensors
    return max_pool_gather(grad, choice, ctx.kernel, ctx.stride), None, None, None, None


def _save_gather(ctx, inputs, output) -> None:
    t, choice, ctx.kernel, ctx.stride = inputs
    ctx.size = (t.shape[2], t.shape[3])
    ctx.save_for_backward(choice)


if "cpu" in lives.BUILT:

    @torch.library.register_fake("jacfast::max_pool")
    def _(x: Tensor, kernel: Pair, stride: Pair, relu: bool) -> tuple[Tensor, Tensor]:
        windows = _windows((x.shape[2], x.shape[3]), kernel, stride)
        y = x.new_empty(*x.shape[:2], *windows)
        return y, torch.empty_like(y, dtype=torch.uint8)

    @torch.library.register_fake("jacfast::max_pool_scatter")
    def _(g: Tensor, choice: Tensor, size: Pair, kernel: Pair, stride: Pair) -> Tensor:
        return g.new_empty(*g.shape[:2], *size)

    @torch.library.register_fake("jacfast::max_pool_gather")
    def _(t: Tensor, choice: Tensor, kernel: Pair, stride: Pair) -> Tensor:
        return t.new_empty(choice.shape)

    for _name, _formula, _save in (
        ("max_pool", _derivative, _save_choice),
        ("max_pool_scatter", _derivative_of_scatter, _save_scatter),
        ("max_pool_gather", _derivative, _save_gather),
    ):
        torch.library.register_autograd(f"jacfast::{_name}", _formula, setup_context=_save)
