"""What attacks ask of a model, and what they want of it: logits, rows of finite gradients."""

import contextlib
from collections.abc import Callable, Iterator
from contextvars import ContextVar

import torch
from torch import Tensor

from jacfast import calling
from jacfast.attacks.losses import Criterion
from jacfast.calling import Call, Model, check_labels, logits_of, sane, warn
from jacfast.vjp import pull_back

MEANS = (  # a gradient that is no direction
    "attacks that follow gradients do not move, and distances that they do not find are unknown, "
    "not large"
)
FEW = 128  # samples that are looked at again at a time
_told: ContextVar[list[Tensor] | None] = ContextVar("told", default=None)


def criterion_of(
    x: Tensor, y: Tensor | None, target: Tensor | None, clean: Callable[[], Tensor]
) -> Criterion:
    """Return what is wanted: to reach `target`, or to leave y or the class of the logits `clean`.

    The number of classes is not looked at.
    """
    if y is not None and target is not None:
        raise ValueError("give y, the classes to leave, or target, the classes to reach; got both")
    if target is not None:
        check_labels(target, len(x), name="target")
        return Criterion(target, targeted=True)
    if y is not None:
        check_labels(y, len(x))
        return Criterion(y)
    return Criterion(clean().argmax(dim=1))


def wanted_in(logits: Tensor, x: Tensor, y: Tensor | None, target: Tensor | None) -> Criterion:
    """Return what is wanted of x, whose logits are these; check the classes against them."""
    wanted = criterion_of(x, y, target, logits.detach)
    check_classes(logits, wanted)
    return wanted


def check_classes(logits: Tensor, wanted: Criterion) -> None:
    """Check that there is a class beside the label, and the labels against the number of them."""
    calling.check_classes(logits)
    name = "target" if wanted.targeted else "y"
    check_labels(wanted.labels, *logits.shape, name=name)


@torch.no_grad()
def look(model: Model, x: Tensor) -> Tensor:
    """Return the logits [N, K] without a graph."""
    return logits_of(model, x.detach())


@torch.enable_grad()
def forward(model: Model, point: Tensor) -> tuple[Tensor, Tensor]:
    """Return a leaf at `point`, from which a graph starts, and the logits [N, K] it leads to."""
    leaf = point.detach().requires_grad_()
    return leaf, logits_of(model, leaf)


def finite_rows(
    logits: Tensor, leaf: Tensor, cotangents: Tensor, lost: Tensor, here: Tensor | None = None
) -> Tensor:
    """Return ``J^T v`` [n, N, D] of cotangents [n, N, K]; 0 for samples where one is not finite.

    A sample without a usable gradient thus does not move, and the others do as they would alone.
    It is counted in `lost`, which `counting` gives: these samples are those at `here` [N], or all.
    """
    rows = pull_back(logits, leaf, cotangents, create_graph=False)
    fine = rows.isfinite().all(dim=2).all(dim=0)
    if here is None:
        lost += ~fine
    else:
        lost.index_add_(0, here, (~fine).to(lost))  # a sample may be there more than once
    return torch.where(fine[:, None], rows, 0)


@contextlib.contextmanager
def counting(x: Tensor) -> Iterator[Tensor]:
    """Give, for an attack on x, how often each sample had no finite gradient; warn of them."""
    lost = torch.zeros(len(x), dtype=torch.int64, device=x.device)
    yield lost
    _say(lost)


def count_stalled(model: Call, points: Tensor, stalled: Tensor, lost: Tensor) -> None:
    """Count in `lost` those of the `stalled` samples, bool [N], that had no finite gradient.

    Though their logits are sane: others are no matter of the gradient.
    """
    for here in stalled.nonzero()[:, 0].split(FEW) if bool(stalled.any()) else ():
        leaf, logits = forward(model.rows(here), points[here])
        own = torch.zeros_like(here)
        finite_rows(logits, leaf, torch.ones_like(logits)[None], own)
        lost[here] = own * sane(logits.detach())


def _say(lost: Tensor) -> None:
    outer = _told.get()
    if outer is not None:
        outer.append(lost)
    elif bool(lost.any()):
        warn(
            f"the gradient in x was NaN or infinite for {int((lost > 0).sum())} of {len(lost)} "
            f"attacked samples: {MEANS}"
        )


@contextlib.contextmanager
def told_once() -> Iterator[None]:
    """Warn once of the samples of all attacks in it, and not once for each attack."""
    attacks: list[Tensor] = []
    outer = _told.set(attacks)
    try:
        yield
    finally:
        _told.reset(outer)
    if attacks:
        _say(torch.cat(attacks))
