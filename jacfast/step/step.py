"""How a step calls the model: how often, on how many samples, and in which state."""

import contextlib
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn

from jacfast.calling import (
    Arguments,
    Draws,
    eager,
    in_eval_mode,
    ordinary,
    pick,
    with_batch_statistics,
)
from jacfast.calling.outputs import Output
from jacfast.checks import count, one_of
from jacfast.memory import advise
from jacfast.ops.checks import accumulator
from jacfast.penalties.base import Penalty
from jacfast.penalties.frobenius import Frobenius
from jacfast.step import plain, seen
from jacfast.step.asked import Asked
from jacfast.step.beginning import beginning
from jacfast.step.checks import BatchNorm, check, check_layer, check_options, skips_step
from jacfast.step.cut import cut
from jacfast.step.run import Run
from jacfast.step.traced import Traced, backend_of
from jacfast.step.traced.backends import BACKENDS, Backend


@dataclasses.dataclass
class Step:
    """The options of `jacfast.forward_with_penalty`, which says what they mean.

    Attributes:
        everything: return all that the model returns, with a gradient, and not the logits alone.
        around: a context for each call of the model.
    """

    penalty: Penalty | None = Frobenius()
    at: Tensor | None = None
    layer: str | None = None
    step: int | None = None
    precision: torch.dtype | None = None
    batch_norm: BatchNorm = "refuse"
    chunk_size: int | None = None
    generator: torch.Generator | None = None
    output: Output = None
    compiled: Backend | None = None
    everything: bool = dataclasses.field(default=False, kw_only=True)
    around: Callable[[], AbstractContextManager] = dataclasses.field(
        default=contextlib.nullcontext, kw_only=True
    )

    def __post_init__(self) -> None:
        if self.chunk_size is not None:
            self.chunk_size = count("chunk_size", self.chunk_size)

    def __call__(
        self, model: nn.Module, x: Tensor, y: Tensor | None, arguments: Arguments
    ) -> tuple[Any, Tensor]:
        """Return the logits for x and `arguments`, or everything, and the penalty."""
        if torch.compiler.is_compiling():  # a graph break, and none of this is compiled
            return torch.compiler.disable(type(self)._run)(self, model, x, y, arguments, True)
        return self._run(model, x, y, arguments, False)

    def _run(
        self, model: nn.Module, x: Tensor, y: Tensor | None, arguments: Arguments, inside: bool
    ) -> tuple[Any, Tensor]:
        """Do it; `inside` says whether a compiled function has asked for it."""
        backend = backend_of(self, model, x, inside)
        x, penalty = ordinary(x) if isinstance(x, Tensor) else x, self.penalty
        if penalty is None or skips_step(penalty, self.step):
            check(model, x, y, self)
            returned = arguments.call(model, x.clone())  # it may begin in place
            logits = pick(returned, self.output)
            return returned if self.everything else logits, _zero(penalty, logits)
        asked = Asked(model, [], penalty, x, y, arguments)
        returned, value = self._passes(asked, backend)
        return returned, value if penalty.every == 1 else penalty.every * value

    def _passes(self, asked: Asked, backend: str | None) -> tuple[Any, Tensor]:
        """Return them by a plan that is there, or check the call, and make one pass or two."""
        alike, traced = self.at is None and self.precision is None, None
        if backend and alike and self.batch_norm != "frozen":
            traced = Traced(self, backend, asked)
            if traced.plan is not None:  # a call like it has been checked
                return traced.replay()
        asked = asked._replace(modules=check(asked.model, asked.x, asked.y, self))
        frozen = with_batch_statistics(asked.modules) if self.batch_norm == "frozen" else []
        if frozen or not alike:
            return self._twice(asked, backend, frozen)
        if backend and traced is None:
            traced = Traced(self, backend, asked)
        return self._once(asked, traced)

    def _once(self, asked: Asked, traced: Traced | None) -> tuple[Any, Tensor]:
        """Return logits, or everything, and the penalty, by one pass."""
        usual = traced is None and self._asks_for_nothing(asked.arguments)
        ready = None
        if usual:
            found = self._by_plain(asked)
            if isinstance(found, tuple):
                return found
            ready = found
        with eager():
            run = Run(self, asked, cut(self, asked), outside=traced is None, ready=ready)
            with _less(run):
                found = traced(run) if traced else run()
        if usual and run.plain:
            seen.remember(asked.model, asked.penalty, asked.x, run.attends)
        return found

    def _twice(
        self, asked: Asked, backend: str | None, frozen: Sequence[nn.Module]
    ) -> tuple[Any, Tensor]:
        """Return them by the model's own pass and a run for the penalty, which leaves no trace."""
        model, _, penalty, x, _, arguments = asked
        again = beginning(model, penalty, [self.generator], arguments, frozen)
        at = x if self.at is None else ordinary(self.at)
        asked = asked._replace(x=at, arguments=arguments.copied())
        with self.around():
            draws = Draws(x.device)
            returned = arguments.call(model, x.clone())  # it may begin in place
        if not self.everything:
            returned = pick(returned, self.output)
        inner = dataclasses.replace(self, everything=False, around=draws.again)
        with eager():
            run = Run(inner, asked, cut(inner, asked), whole=False, frozen=frozen)
        lower = _in(self.precision, x.device.type)
        with eager(), _less(run), again(), in_eval_mode(frozen), lower:
            traced = Traced(self, backend, asked, False, draws.again) if backend else None
            _, value = traced(run) if traced else run()
        return returned, value

    def _by_plain(self, asked: Asked) -> "tuple[Tensor, Tensor] | seen.Otherwise | None":
        """Return logits and penalty by plain double backward, where that is cheaper; else None.

        Or a call of the model from which that does not lead on.
        """
        model, modules, penalty, x, y, _ = asked
        given = model, penalty, x, y, self.output, self.generator
        expected = seen.expected(model, modules, penalty, x)
        if expected is None:
            cheaper = plain.is_cheaper(model, modules, penalty, x)
            return plain.plain_step(*given) if cheaper else None
        try:
            with eager():
                return plain.plain_step(*given, expected)
        except seen.Otherwise as call:
            seen.forget(model)
            return call

    def _asks_for_nothing(self, arguments: Arguments) -> bool:
        """Say whether a call asks for nothing that plain double backward does not do."""
        special = self.layer is not None or self.chunk_size is not None or self.everything
        special = special or self.around is not contextlib.nullcontext
        return not special and self.batch_norm == "refuse" and not arguments.any


def _less(run: Run) -> AbstractContextManager:
    used = f"{run.cut.chunk} of {len(run.asked.x)} samples"
    return advise(f"less memory is needed with a smaller chunk_size; it was {used}")


def _zero(penalty: Penalty | None, logits: Tensor) -> Tensor:
    each = penalty is not None and penalty.reduction == "none"
    return logits.new_zeros(len(logits) if each else (), dtype=accumulator(logits.dtype))


def _in(precision: torch.dtype | None, device: str) -> AbstractContextManager:
    """Return the context of a forward pass in `precision`."""
    if precision is None:
        return contextlib.nullcontext()
    return torch.autocast(device, dtype=precision)


def check_names(options: Mapping[str, Any], known: Sequence[str]) -> None:
    """Refuse options that are not among the `known` ones."""
    if unknown := sorted(set(options) - set(known)):
        raise TypeError(f"options must be among {', '.join(known)}; got {', '.join(unknown)}")


def check_early(penalty: Penalty | None, options: Mapping[str, Any], known: Sequence[str]) -> None:
    """Check options that are kept for later calls: a first step may be hours away.

    Raises:
        TypeError: one is not among the `known` ones. And what `forward_with_penalty` raises.
    """
    check_names(options, known)
    own = {name: value for name, value in options.items() if name not in ("args", "kwargs")}
    Arguments(options.get("args", ()), options.get("kwargs"), samples=0)
    if own.get("compiled") is not None:
        one_of("compiled", own["compiled"], BACKENDS)
    check_layer(own.get("layer"))  # with the model it is one of its names
    check_options(Step(penalty, **own))
