"""The two sweeps of a penalised step through one function, stock and with lean layers."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from jacfast.graph import nodes
from jacfast.lean import COLLECT, PULL, TRAINING, Lean, Sweep
from tests.nets import draw


class Sweeps(NamedTuple):
    """What comes out of y = f(x), g = (dy/dx)^T v and p = penalty(g)."""

    y: Tensor
    g: Tensor
    tangent: Tensor | None  # dp/dv
    second: dict[Tensor, Tensor]  # dp/dparameter, of the parameters that p depends on
    first: dict[Tensor, Tensor]  # d<y, v>/dparameter


def penalty(g: Tensor) -> Tensor:
    """Return a function of g whose derivative is neither constant nor without a constant."""
    return g.square().sum() + (g * draw(*g.shape, dtype=g.dtype, seed=7)).sum()


def pull(y: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    """Return a cotangent v with requires_grad, and g with its graph."""
    v = draw(*y.shape, dtype=y.dtype, seed=3).requires_grad_()
    (g,) = torch.autograd.grad(y, x, v, create_graph=True)
    return v, g


def stock(f: Callable[[Tensor], Tensor], x: Tensor, parameters: Sequence[Tensor]) -> Sweeps:
    x = x.detach().requires_grad_()
    y = f(x)
    v, g = pull(y, x)
    tangent, *second = torch.autograd.grad(
        penalty(g), [v, *parameters], retain_graph=True, allow_unused=True
    )
    first = torch.autograd.grad(y, parameters, v, allow_unused=True) if parameters else ()
    return Sweeps(y, g, tangent, _found(parameters, second), _found(parameters, first))


MANY = 1 << 40  # rows of cotangents: a first linear layer is noted where there are enough


def run(
    f: Callable[[Tensor], Tensor],
    x: Tensor,
    root: Tensor | None = None,
    rows: int | None = MANY,
    least: int = 0,
    wants_root: bool = False,
) -> tuple[Lean, Tensor]:
    """Return the mode that f(x) has run in, all layers of it lean, and f(x)."""
    lean = Lean(Sweep(wants_root=wants_root), TRAINING, root, rows=rows, least=least)
    with lean.sweep.of(PULL), lean:
        return lean, f(x)


def lean(f: Callable[[Tensor], Tensor], x: Tensor, parameters: Sequence[Tensor]) -> Sweeps:
    """Return the same of lean layers."""
    x = x.detach().requires_grad_()
    mode, y = run(f, x)
    with mode.sweep.of(PULL):
        v, g = pull(y, x)
    with mode.sweep.of(COLLECT):
        tangent, *second = torch.autograd.grad(
            penalty(g), [v, *parameters], retain_graph=True, allow_unused=True
        )
        first = torch.autograd.grad(y, parameters, v, allow_unused=True) if parameters else ()
    return Sweeps(y, g, tangent, _found(parameters, second), _found(parameters, first))


def assert_same(
    f: Callable[[Tensor], Tensor],
    x: Tensor,
    parameters: Sequence[Tensor],
    rtol: float = 1e-10,
    atol: float = 1e-10,
) -> None:
    """Compare outputs to the bit, every derivative within the tolerance.

    A derivative of zero can be there or not: stock layers pass on many that lean ones do not.
    """
    got, want = lean(f, x, parameters), stock(f, x, parameters)
    torch.testing.assert_close(got.y, want.y, rtol=0, atol=0, equal_nan=True)
    torch.testing.assert_close(got[1:3], want[1:3], rtol=rtol, atol=atol)
    for ours, stocks in zip(got[3:], want[3:], strict=True):
        torch.testing.assert_close(_nonzero(ours), _nonzero(stocks), rtol=rtol, atol=atol)


def step(
    f: Callable[[Tensor], Tensor], x: Tensor, parameters: Sequence[Tensor]
) -> tuple[Tensor, dict[Tensor, Tensor]]:
    """Return y, and the gradients of <y, v> and penalty(g) together, as a step takes them."""
    x = x.detach().requires_grad_()
    mode, y = run(f, x, root=x)
    with mode.sweep.of(PULL):
        v, g = pull(y, x)
    total = penalty(g) + (y * v.detach()).sum()
    with mode.sweep.of(COLLECT):
        found = torch.autograd.grad(total, parameters, allow_unused=True)
    return y, _found(parameters, found)


def assert_step_is_stock(
    f: Callable[[Tensor], Tensor], x: Tensor, parameters: Sequence[Tensor], exact: bool = True
) -> None:
    """Compare y, to the bit unless it is made of derivatives, and the sum of both gradients."""
    want = stock(f, x, parameters)
    y, gradients = step(f, x, parameters)
    torch.testing.assert_close(y, want.y, **({"rtol": 0, "atol": 0} if exact else {}))
    for p in parameters:
        both = want.first.get(p, torch.zeros_like(p)) + want.second.get(p, torch.zeros_like(p))
        torch.testing.assert_close(gradients.get(p, torch.zeros_like(p)), both)


def directions(y: Tensor) -> set[bool]:
    """Return which products of lean layers are in a graph: back to inputs, or of tangents."""
    return {node.back for node in nodes(y) if node.name() == "ProductBackward"}


def names(y: Tensor) -> set[str]:
    """Return the names of the nodes of a graph."""
    return {node.name() for node in nodes(y)}


def _found(parameters: Sequence[Tensor], gradients: Sequence[Tensor | None]) -> dict:
    pairs = zip(parameters, gradients, strict=False)
    return {p: gradient for p, gradient in pairs if gradient is not None}


def _nonzero(gradients: dict[Tensor, Tensor]) -> dict[Tensor, Tensor]:
    return {p: gradient for p, gradient in gradients.items() if gradient.any()}
