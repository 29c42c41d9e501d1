"""First and second derivatives of normalisation by rows: see `norm_first`."""

import torch
from torch import Tensor

from jacfast.checks import count, number
from jacfast.ops import checks, lives


def norm_first(
    x: Tensor,
    g: Tensor,
    weight: Tensor | None,
    eps: float,
    groups: int = 1,
    *,
    centred: bool = True,
    parameters: bool = False,
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Pull `g` back through a normalisation of rows: to x, and to weight and bias.

    A row r is what a sample has in one of `groups` equal groups of channels, D entries::

        y = weight n(x) + bias,    n(x) = s (x - mean(x)),    s = (mean((x - mean(x))^2) + eps)^-1/2

    with means over the row, the first of them left out where not `centred`. With one group of
    entries (x [R, D]) this is LayerNorm or, not centred, RMSNorm; of images, GroupNorm, and
    InstanceNorm with a group for each channel. With h = weight g and ``P h = h - mean(h) - n mean(n
    h)`` the derivatives are ``s P h``, ``sum g n`` and ``sum g``, sums over all that a channel has.

    Row statistics and sums over samples are accumulated in float64, computed from x anew, and all
    else in float32 for half types. Differentiable any number of times, by the reference; the fast
    derivative of the part of x is `norm_second`.

    Args:
        x: [N, C, ...], of any layout; float32, float64, float16 or bfloat16.
        g: the cotangent of y, like x.
        weight: [C], floating-point; None for ones.
        eps: what is added to the variance.
        groups: a number that divides C.
        centred: whether means are taken off.
        parameters: whether the derivatives of weight and bias are wanted.

    Returns:
        That of x, like x, contiguous; those of weight and bias, [C], in the dtype of x, or float32
        for half types; or None.

    Raises:
        TypeError: x is no floating-point tensor, or g or weight is of a wrong dtype.
        ValueError: g has another shape or device; weight is not [C]; groups does not divide C.

    Source: Ba et al. (LayerNorm), Zhang & Sennrich (RMSNorm), Wu & He (GroupNorm), Ulyanov et al.
    (InstanceNorm).
    """
    _check(x, weight, eps, groups, g=g)
    if _differentiates(x, g, weight) or not compiled(x):
        of_x, *found = first_reference(x, g, weight, eps, groups, centred)
        return of_x, *(found if parameters else (None, None))
    constant = None if weight is None else weight.detach().to(checks.accumulator(x.dtype))
    three = (_three(t.detach()) for t in (x, g))
    of_x, found = lives.call("norm_first", *three, constant, eps, groups, centred, parameters)
    return of_x.view(x.shape), *(found.unbind(0) if parameters else (None, None))


def norm_second(
    x: Tensor,
    g: Tensor,
    u: Tensor,
    weight: Tensor | None,
    eps: float,
    groups: int = 1,
    *,
    centred: bool = True,
    parameters: bool = False,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Pull `u` back through the part of x of `norm_first`, to x, g and weight, in one pass.

    With ``a = mean(n u)``, ``b = mean(n h)``, ``u' = u - mean(u)``, ``h' = h - mean(h)`` (u and h
    themselves where not `centred`) the derivatives of ``<s P h, u>`` are ::

        of x:       -s^2 (b u' + a h' + n (mean(u' h') - 3 a b)),
        of g:       weight s P u,
        of weight:  sum g s P u.

    Differentiable by the reference: third derivatives cost PyTorch's operations.

    Args:
        x, g, weight, eps, groups, centred: of `norm_first`.
        u: the cotangent of its first result, like x.
        parameters: whether the derivative of the weight is wanted.

    Returns:
        Those of x and g, like x, contiguous; that of weight, as in `norm_first`, or None.

    Raises:
        TypeError, ValueError: as in `norm_first`.
    """
    _check(x, weight, eps, groups, g=g, u=u)
    if _differentiates(x, g, u, weight) or not compiled(x):
        of_x, of_g, of_weight = second_reference(x, g, u, weight, eps, groups, centred)
        return of_x, of_g, of_weight if parameters else None
    constant = None if weight is None else weight.detach().to(checks.accumulator(x.dtype))
    three = (_three(t.detach()) for t in (x, g, u))
    options = constant, eps, groups, centred, parameters
    of_x, of_g, found = lives.call("norm_second", *three, *options)
    return of_x.view(x.shape), of_g.view(x.shape), found[0] if parameters else None


def compiled(x: Tensor) -> bool:
    """Say whether calls on x go to the compiled ops."""
    return lives.native(x) and lives.has("norm_first")


def _differentiates(*tensors: Tensor | None) -> bool:
    return torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors)


def _three(x: Tensor) -> Tensor:
    """Return x as [N, C, S]."""
    return x.flatten(2) if x.dim() > 2 else x.unsqueeze(2)


def _check(x: Tensor, weight: Tensor | None, eps: float, groups: int, **others: Tensor) -> None:
    checks.floating("x", x)
    if x.dim() < 2:
        raise ValueError(f"x must have shape [N, C, ...]; got {list(x.shape)}")
    for name, other in others.items():
        checks.like_x(name, other, x)
    if weight is not None:
        checks.floating("weight", weight)
        checks.shape("weight", weight, "[C]", (x.shape[1],))
        checks.same_device("weight", weight, "x", x)
    number("eps", eps)
    if x.shape[1] % count("groups", groups):
        raise ValueError(f"groups must divide the {x.shape[1]} channels; got {groups}")


class _Rows:
    """The rows of x as [N, G, D] in float64, and what both derivatives know of them."""

    def __init__(
        self, x: Tensor, g: Tensor, weight: Tensor | None, eps: float, groups: int, centred: bool
    ) -> None:
        self.like, self.groups, self.centred = x, groups, centred
        shape = 1, x.shape[1], *[1] * (x.dim() - 2)
        self.weight = None if weight is None else weight.double().view(shape).expand_as(x)
        self.x, self.g = self.rows(x), self.rows(g)
        self.h = self.g if self.weight is None else self.g * self.rows(self.weight)
        left = self.left(self.x)
        self.rstd = (left.square().mean(-1, keepdim=True) + eps).rsqrt()
        self.n = left * self.rstd

    def rows(self, x: Tensor) -> Tensor:
        return x.double().reshape(x.shape[0], self.groups, -1 if x.numel() else 0)

    def left(self, x: Tensor) -> Tensor:
        """Return rows without their means, if these are taken off."""
        return x - x.mean(-1, keepdim=True) if self.centred else x

    def project(self, h: Tensor) -> Tensor:
        """Return s P h."""
        return self.rstd * (self.left(h) - self.n * (self.n * h).mean(-1, keepdim=True))

    def result(self, rows: Tensor) -> Tensor:
        return rows.reshape(self.like.shape).to(self.like.dtype)

    def of_channels(self, rows: Tensor) -> Tensor:
        """Return the sums over all that channels have."""
        x = rows.reshape(self.like.shape)
        return x.transpose(0, 1).flatten(1).sum(1).to(checks.accumulator(self.like.dtype))


def first_reference(
    x: Tensor, g: Tensor, weight: Tensor | None, eps: float, groups: int, centred: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Compute `norm_first` in PyTorch: the definition."""
    at = _Rows(x, g, weight, eps, groups, centred)
    return at.result(at.project(at.h)), at.of_channels(at.g * at.n), at.of_channels(at.g)


def second_reference(
    x: Tensor, g: Tensor, u: Tensor, weight: Tensor | None, eps: float, groups: int, centred: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Compute `norm_second` in PyTorch: the definition."""
    at = _Rows(x, g, weight, eps, groups, centred)
    u = at.rows(u)
    along, left_u, left_h = at.project(u), at.left(u), at.left(at.h)
    a, b, c = ((p * q).mean(-1, keepdim=True) for p, q in ((at.n, u), (at.n, at.h), (left_u, at.h)))
    of_x = -at.rstd.square() * (b * left_u + a * left_h + at.n * (c - 3 * a * b))
    of_g = along if at.weight is None else at.rows(at.weight) * along
    return at.result(of_x), at.result(of_g), at.of_channels(at.g * along)


if lives.has("norm_first"):

    def _parameters(x: Tensor, count: int, wanted: bool) -> Tensor:
        dtype = checks.accumulator(x.dtype)
        return x.new_empty(count, x.shape[1] if wanted else 0, dtype=dtype)

    @torch.library.register_fake("jacfast::norm_first")
    def _(x: Tensor, g: Tensor, weight: Tensor | None, *options) -> tuple[Tensor, Tensor]:
        return x.new_empty(x.shape), _parameters(x, 2, options[-1])

    @torch.library.register_fake("jacfast::norm_second")
    def _(
        x: Tensor, g: Tensor, u: Tensor, weight: Tensor | None, *options
    ) -> tuple[Tensor, Tensor, Tensor]:
        return x.new_empty(x.shape), x.new_empty(x.shape), _parameters(x, 1, options[-1])
