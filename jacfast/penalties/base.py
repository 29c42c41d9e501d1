"""What all penalties share: a choice of cotangents, a norm, and how samples are put together."""

import abc
import dataclasses
from typing import Literal, get_args

import torch
from torch import Tensor

from jacfast.checks import count, keep, one_of, share
from jacfast.graph import Graph
from jacfast.ops import checks
from jacfast.ops.row_norm import row_norm
from jacfast.penalties.checks import Coupled, check_apart, check_batch_norm, check_graph
from jacfast.portion import drawn
from jacfast.vjp import pull_back

Reduction = Literal["mean", "none"]
REDUCTIONS: tuple[Reduction, ...] = get_args(Reduction)
# Entries up to which PyTorch's sum of squares, in float32, costs less than `row_norm`: measured.
FEW = 1 << 17
WORDS = {"squared": ("kind", "measure", "collect"), "of_logits": ("cotangents",)}


@dataclasses.dataclass(frozen=True)
class Penalty(abc.ABC):
    """``mean_i sum_j rho(J(x_i)^T v_ij)``: each subclass chooses the cotangents v and the norm rho.

    Called on the logits and the x that they were computed from it returns a scalar to add to the
    loss; `jacfast.forward_with_penalty` takes the object itself, and is faster. One's own penalty
    is a frozen dataclass with a method `cotangents` (``examples/own_penalty.py``). What else there
    is to choose:

    - ``kind``: rho of a row, ``"sumsq"``, ``"sumabs"`` or ``"maxabs"``; or `measure`, any rho.
    - ``squared = True`` where rho is the sum of squares as it is: a cheaper way then, if there is.
      A class with a ``kind``, `measure` or `collect` of its own must say so itself.
    - ``of_logits = True`` where the cotangents do not depend on x, for the same reason.
    - ``needs_labels = True``: y must be given, and is checked.
    - `check`: what options must fulfil, given the logits; `draw`: what is random in the cotangents.

    Args:
        subsample: share of each batch that is penalised, in (0, 1]: a fresh random part every time.
            The mean over it is an unbiased estimate. Only for `forward_with_penalty`.
        every: penalise every m-th step only, m times as strongly. Only for `forward_with_penalty`.
        reduction: ``"mean"`` over the samples, or ``"none"``: the values of the samples [N], to be
            weighted; the graphs of all projections are then kept until the backward pass.

    Raises:
        TypeError, ValueError: an option is not as above, or as the subclass has it.
    """

    subsample: float = dataclasses.field(default=1.0, kw_only=True)
    every: int = dataclasses.field(default=1, kw_only=True)
    reduction: Reduction = dataclasses.field(default="mean", kw_only=True)

    needs_labels = False
    kind = "sumsq"
    squared = False  # rho is the sum of squares, as it is
    of_logits = False  # the cotangents depend on logits, labels and draw, and not on x

    def __init_subclass__(cls) -> None:
        """Let a word about rho or the cotangents hold for those that it was said of, no others.

        These may come from a class beside the one that says so, in a class of several bases.
        """
        super().__init_subclass__()
        for word, said_of in WORDS.items():
            speaker = _home(cls, word)
            if any(_home(cls, name) is not _home(speaker, name) for name in said_of):
                setattr(cls, word, False)

    def __post_init__(self) -> None:
        keep(
            self,
            subsample=share("subsample", self.subsample),
            every=count("every", self.every),
            reduction=one_of("reduction", self.reduction, REDUCTIONS),
        )
        if self.reduction == "none" and self.subsample < 1:
            raise ValueError(
                "subsample must be 1 with reduction='none': the others have no value; "
                f"got {self.subsample}"
            )

    def __call__(
        self,
        logits: Tensor,
        x: Tensor,
        y: Tensor | None = None,
        *,
        generator: torch.Generator | None = None,
        batch_norm: Coupled = "refuse",
    ) -> Tensor:
        """Return the penalty of logits [N, ...] computed from x [N, ...] with requires_grad.

        Entries of a dense output are rows of J as any other; logits [N] are one row.

        Args:
            y: labels [N] int64, for the penalties that need them; checked in any case.
            generator: source of random cotangents, on the device of `logits`.
            batch_norm: what to do where batch statistics make samples depend on each other:
                ``"refuse"``, or ``"coupled"``: differentiate the batch as it is, so that the row
                of a sample is the gradient of all samples' logits.

        Raises:
            TypeError, ValueError: an argument is not as above, or x is not in the graph of logits.
            RuntimeError: a batch-norm in training mode couples the samples; or under torch.func.
        """
        if self.subsample < 1 or self.every > 1:
            raise ValueError(
                "subsample and every save nothing once the logits of the whole batch are there: "
                f"use forward_with_penalty; got subsample={self.subsample}, every={self.every}"
            )
        check_batch_norm(batch_norm)
        checks.source("generator", generator)
        logits, graph = check_graph(logits, x), None
        if not torch.compiler.is_compiling():
            graph = Graph(logits, past=x.grad_fn)
            if batch_norm == "refuse":
                check_apart(graph, x)
        if y is not None:
            checks.class_index("y", y, len(logits), logits)
        self.check(logits, y)
        draw = self.drawn(len(x), logits, generator)
        vectors = cotangents_of(self, logits, x, y, draw)
        g = pull_back(logits, x, vectors, create_graph=True, graph=graph)
        return self.reduce(self.total(g), len(x))

    def check(self, logits: Tensor, y: Tensor | None) -> None:
        """Check what depends on the logits [N, K]: labels, and options against K."""
        if not self.needs_labels:
            return
        if y is None:
            raise ValueError(f"y must be given: {type(self).__name__} depends on the labels")
        checks.class_index("y", y, len(logits), logits)
        look = y.device.type == "cpu" and not torch.compiler.is_compiling()
        if look and not (0 <= int(y.min()) <= int(y.max()) < logits.shape[1]):
            raise ValueError(  # on a GPU the look would hold up the host; indexing fails there
                f"y must lie in 0 .. K - 1 = {logits.shape[1] - 1}; got {int(y.min())} .. "
                f"{int(y.max())}"
            )

    def draw(
        self, samples: int, logits: Tensor, generator: torch.Generator | None
    ) -> Tensor | None:
        """Draw the randomness of `samples` samples [samples, ...]; None if there is none."""
        return None

    def drawn(
        self, samples: int, logits: Tensor, generator: torch.Generator | None
    ) -> Tensor | None:
        """Return what `draw` draws; of one process's part of a batch as if the whole were here."""
        return drawn(lambda count: self.draw(count, logits, generator), samples)

    @abc.abstractmethod
    def cotangents(
        self, logits: Tensor, x: Tensor, y: Tensor | None, draw: Tensor | None
    ) -> Tensor:
        """Return the cotangents [n, N, K] of logits [N, K]; what depends on those has a derivative.

        Args:
            x: what the logits were computed from, with requires_grad, to differentiate them in;
                with ``subsample`` it may hold more samples than the logits.
            y: labels [N] int64, or None.
            draw: what `draw` has returned for these samples.
        """

    @property
    def summed(self) -> bool:
        """Whether the sum of the squares of all entries is all that is wanted."""
        return self.squared and self.reduction == "mean"

    def measure(self, g: Tensor) -> Tensor:
        """Return rho of each row of g [R, D], [R]."""
        return row_norm(g, self.kind)

    def collect(self, sizes: Tensor) -> Tensor:
        """Return the sum of sizes [n, N], or that of each sample [N] with reduction="none"."""
        return sizes.sum(0) if self.reduction == "none" else sizes.sum()

    def total(self, g: Tensor) -> Tensor:
        """Return the sum of rho over J^T v, g [n, N, ...], or that of each sample [N]."""
        if self.summed and g.numel() <= FEW:  # less calls than for rows
            return g.to(checks.accumulator(g.dtype)).square().sum()
        sizes = sizes_of(self, g.flatten(2).flatten(0, 1))
        return self.collect(sizes.unflatten(0, g.shape[:2]))

    def reduce(self, total: Tensor, samples: int) -> Tensor:
        """Turn the `total` of the batch into the penalty."""
        return total if self.reduction == "none" else total / samples


def check_penalty(penalty: object) -> None:
    """Check that it is one, and not its class or a function of that name."""
    if not isinstance(penalty, Penalty):
        got = getattr(penalty, "__name__", type(penalty).__name__)
        raise TypeError(f"penalty must be a jacfast Penalty, as Frobenius(); got {got}")


def check_addend(penalty: object) -> None:
    """Check that it is one, and one number: whoever adds it to a loss has no weights of samples."""
    check_penalty(penalty)
    if isinstance(penalty, Penalty) and penalty.reduction != "mean":
        raise ValueError(
            "penalty must have reduction='mean' to be added to a loss (the samples' own values "
            f"come from forward_with_penalty); got {penalty.reduction!r}"
        )


def cotangents_of(
    penalty: Penalty, logits: Tensor, x: Tensor, y: Tensor | None, draw: Tensor | None
) -> Tensor:
    """Return the cotangents of a penalty, perhaps of a user's own: as `Penalty.cotangents` says."""
    found = penalty.cotangents(logits, x, y, draw)
    if not isinstance(found, Tensor) or found.shape[1:] != logits.shape or not found.shape[0]:
        samples, classes = logits.shape
        raise ValueError(
            f"{type(penalty).__name__}.cotangents must return [n, N, K] = [n, {samples}, "
            f"{classes}], n >= 1; got {_shape(found)}"
        )
    return found


def sizes_of(penalty: Penalty, rows: Tensor) -> Tensor:
    """Return rho of each row [R, D] by a penalty, perhaps of a user's own."""
    sizes = penalty.measure(rows)
    if not isinstance(sizes, Tensor) or sizes.shape != rows.shape[:1]:
        raise ValueError(
            f"{type(penalty).__name__}.measure must return [R] = [{len(rows)}], a size for each "
            f"row; got {_shape(sizes)}"
        )
    return sizes


def _shape(found: object) -> object:
    return list(found.shape) if isinstance(found, Tensor) else type(found).__name__


def _home(cls: type, name: str) -> type:
    """Return the class from which `cls` has an attribute."""
    return next(base for base in cls.__mro__ if name in vars(base))


def safe_sqrt(square: Tensor) -> Tensor:
    """Return the square root, with derivative 0 at 0; of NaN, NaN."""
    zero = square <= 0
    root = torch.where(zero, 1.0, square).sqrt()
    return torch.where(zero, 0.0, root)
