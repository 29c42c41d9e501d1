"""How a step calls the model: how often, on how many samples, and in which state."""

import contextlib
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from jacfast.calling import (
    Arguments,
    Draws,
    drops,
    eager,
    in_eval_mode,
    may_be_cut,
    ordinary,
    part_of,
    pick,
    readable,
    separable,
    with_batch_statistics,
    worth_two_calls,
)
from jacfast.calling.outputs import Output
from jacfast.checks import count, one_of
from jacfast.memory import advise
from jacfast.ops.checks import accumulator
from jacfast.penalties.base import Penalty
from jacfast.penalties.frobenius import Frobenius
from jacfast.penalties.learned import may_change
from jacfast.step import plain, seen
from jacfast.step.beginning import beginning
from jacfast.step.checks import BatchNorm, check, check_layer, check_options, skips_step
from jacfast.step.run import Run
from jacfast.step.traced import Traced, backend_of
from jacfast.step.traced.backends import BACKENDS, Backend


class Asked(NamedTuple):
    """A call of a model, whose modules these are, that is to be penalised."""

    model: nn.Module
    modules: list[nn.Module]
    penalty: Penalty
    x: Tensor
    y: Tensor | None
    arguments: Arguments


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
        skips = skips_step(penalty, self.step)
        twice = self.at is not None or self.precision is not None or self.batch_norm == "frozen"
        traced = None
        if backend and not (skips or twice):
            traced = Traced(self, backend, model, x, y, arguments)
        modules = []
        if traced is None or traced.plan is None:  # else one like it has been checked
            modules = check(model, x, y, self)
        if penalty is None or skips:
            returned = arguments.call(model, x.clone())  # it may begin in place
            logits = pick(returned, self.output)
            return returned if self.everything else logits, _zero(penalty, logits)
        frozen = with_batch_statistics(modules) if self.batch_norm == "frozen" else []
        asked = Asked(model, modules, penalty, x, y, arguments)
        if traced is not None and traced.plan is not None:
            returned, value = traced.replay()
        elif frozen or self.at is not None or self.precision is not None:
            returned, value = self._twice(asked, backend, frozen)
        else:
            returned, value = self._once(asked, backend, traced)
        return returned, value if penalty.every == 1 else penalty.every * value

    def _once(
        self, asked: Asked, backend: str | None, traced: "Traced | None"
    ) -> tuple[Any, Tensor]:
        """Return logits, or everything, and the penalty, by one pass."""
        model, _, penalty, x, y, arguments = asked
        if backend and traced is None:
            traced = Traced(self, backend, model, x, y, arguments)
        usual = traced is None and self._asks_for_nothing(arguments)
        ready = None
        if usual:
            found = self._by_plain(asked)
            if isinstance(found, tuple):
                return found
            ready = found
        with eager():
            run = self._plan(asked, outside=traced is None, ready=ready)
            with _less(run, x):
                found = traced(run) if traced else run(x, y, whole=True)
        if usual and run.plain:
            seen.remember(model, penalty, x, run.attends)
        return found

    def _twice(
        self, asked: Asked, backend: str | None, frozen: Sequence[nn.Module]
    ) -> tuple[Any, Tensor]:
        """Return them by the model's own pass and a run for the penalty, which leaves no trace."""
        model, _, penalty, x, y, arguments = asked
        again = beginning(model, penalty, [self.generator], arguments, frozen)
        given = arguments.copied()
        with self.around():
            draws = Draws(x.device)
            returned = arguments.call(model, x.clone())  # it may begin in place
        if not self.everything:
            returned = pick(returned, self.output)
        with eager():
            asked = asked._replace(arguments=given)
            run = self._plan(asked, frozen=frozen, everything=False, around=draws.again)
        at = x if self.at is None else ordinary(self.at)
        lower = _in(self.precision, x.device.type)
        with eager(), _less(run, x), again(), in_eval_mode(frozen), lower:
            if backend is None:
                _, value = run(at, y, whole=False)
            else:
                traced = Traced(self, backend, model, at, y, given, False, draws.again)
                _, value = traced(run)
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

    def _plan(self, asked: Asked, **options: Any) -> Run:
        """Choose how often the model is called: once, unless the batch may be cut."""
        model, modules, penalty, x, _, arguments = asked
        samples, some = x.shape[0], penalty.subsample < 1
        certain = self.batch_norm != "coupled" and not arguments.any
        certain = certain and (some or may_be_cut(x)) and separable(modules)
        if some and certain and self.chunk_size is None:
            certain = worth_two_calls(model, x)
        if some and self.generator is None and not readable(x.device) and drops(model):
            certain = False  # nothing can be drawn beside the masks, which come first
        whole = not certain or may_change(penalty)
        chunk = self.chunk_size or (samples if whole else part_of(model, x))
        cuts = chunk < samples
        return Run(
            model,
            modules,
            penalty,
            arguments,
            chunk,
            sorts=certain or cuts,
            layer=self.layer,
            output=self.output,
            coupled=self.batch_norm == "coupled",
            generator=self.generator,
            guards=cuts and not certain,
            **{"everything": self.everything, "around": self.around, **options},
        )


def _less(run: Run, x: Tensor) -> AbstractContextManager:
    used = f"{run.chunk} of {len(x)} samples"
    return advise(f"less memory is needed with a smaller chunk_size; it was {used}")


def _zero(penalty: Penalty | None, logits: Tensor) -> Tensor:
    each = penalty is not None and penalty.reduction == "none"
    return logits.new_zeros(len(logits) if each else (), dtype=accumulator(logits.dtype))


def _in(precision: torch.dtype | None, device: str) -> AbstractContextManager:
    """Return the context of a forward pass in `precision`."""
    if precision is None:
        return contextlib.nullcontext()
    return torch.autocast(device, dtype=precision)


def check_early(penalty: Penalty | None, options: Mapping[str, Any], known: Sequence[str]) -> None:
    """Check options that are kept for later calls: a first step may be hours away.

    Raises:
        TypeError: one is not among the `known` ones. And what `forward_with_penalty` raises.
    """
    if unknown := sorted(set(options) - set(known)):
        raise TypeError(f"options must be among {', '.join(known)}; got {', '.join(unknown)}")
    own = {name: value for name, value in options.items() if name not in ("args", "kwargs")}
    Arguments(options.get("args", ()), options.get("kwargs"), samples=0)
    if own.get("compiled") is not None:
        one_of("compiled", own["compiled"], BACKENDS)
    check_layer(own.get("layer"))  # with the model it is one of its names
    check_options(Step(penalty, **own))
