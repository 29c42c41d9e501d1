"""A run as two flat graphs of operations, one forward and one backward, behind the same node.

`trace` records one real run, `graph` cuts it where the gradients of the outputs come in, `replay`
runs the graphs in its place, by a backend of `backends`. `guards` says what a trace depends on,
`refuse` what has none; this is where later calls find it.
"""

import contextlib
import dataclasses
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from jacfast.calling import tree, warn
from jacfast.calling.functions import compiled_module
from jacfast.checks import one_of
from jacfast.penalties.base import Penalty
from jacfast.portion import at_hand
from jacfast.step.asked import Asked
from jacfast.step.draw import is_own
from jacfast.step.run import Run
from jacfast.step.traced.backends import BACKENDS, chosen
from jacfast.step.traced.capture import elsewhere
from jacfast.step.traced.guards import Look, settings
from jacfast.step.traced.refuse import Refused, hindrance
from jacfast.step.traced.replay import Plan
from jacfast.step.traced.trace import trace

if TYPE_CHECKING:
    from jacfast.step.step import Step

__all__ = ["Traced", "backend_of", "fresh", "say_again"]

LIMIT = 8  # traces of a model
EAGER = "forward_with_penalty runs eager, and not compiled=, because of {}"
TRACED = "forward_with_penalty runs traced, and not as CUDA graphs, because of {}"
_LOCK = threading.RLock()  # a trace takes the place of the model's buffers
_known: weakref.WeakKeyDictionary[nn.Module, "Known"] = weakref.WeakKeyDictionary()


def backend_of(step: "Step", model: Any, x: Any, inside: bool) -> str | None:
    """Return the backend that a call asks for; None for eager.

    A compiled model, and a compiled function around the call (`inside`), ask for one, too.
    """
    backend = step.compiled
    if backend is not None:
        one_of("compiled", backend, BACKENDS)
    usual = isinstance(model, nn.Module) and isinstance(x, Tensor)
    if not (usual and isinstance(step.penalty, Penalty)):
        return None
    if backend == "cudagraphs" and not x.is_cuda:
        raise ValueError(f"compiled must not be 'cudagraphs' for x on a {x.device.type} device")
    if step.around is not contextlib.nullcontext:  # as for a pass beside another
        return None
    asked = inside or ("torch._dynamo" in sys.modules and any(map(compiled_module, tree(model))))
    return backend or ("auto" if asked else None)


class Known:
    """What is known of a model: its plans by their keys, None where there can be none."""

    def __init__(self) -> None:
        self.plans: dict[tuple, Plan | None] = {}
        self.said: set[str] = set()

    def say(self, reason: str, words: str = EAGER) -> None:
        """Warn, once for each reason, that a call runs another way than it was asked to."""
        with _LOCK:
            new = reason not in self.said
            self.said.add(reason)
        if new:
            warn(words.format(reason))


@contextlib.contextmanager
def fresh(model: nn.Module) -> Iterator[None]:
    """Begin without what is known of a model's calls; afterwards it is known, and nothing new."""
    with _LOCK:
        before = _known.pop(model, None)
    try:
        yield
    finally:
        with _LOCK:
            _known.pop(model, None)
            if before is not None:
                _known[model] = before


def say_again(model: nn.Module) -> None:
    """Let the reasons why calls of a model run eager be said once more."""
    with _LOCK:
        if known := _known.get(model):
            known.said.clear()


class Traced:
    """The traced way of one call, if there is one."""

    def __init__(
        self,
        step: "Step",
        backend: str,
        asked: Asked,
        whole: bool = True,
        around: Callable[[], Any] = contextlib.nullcontext,
    ) -> None:
        self.step, self.backend, self.whole, self.around = step, backend, whole, around
        self.model, self.x, self.y = asked.model, asked.x, asked.y
        self.apart = asked.arguments.apart()
        self.reason: str | None = None
        self.plan: Plan | None = None
        with _LOCK:
            self.known = _known.setdefault(asked.model, Known())
            self._look()

    def _things(self) -> tuple:
        """Return all that the call depends on, as it is now: while it is recorded, copies."""
        step, x = self.step, self.x
        penalty: Any = step.penalty
        fields = {field.name: getattr(penalty, field.name) for field in dataclasses.fields(penalty)}
        fields |= getattr(penalty, "__dict__", {})  # of a class that is no dataclass
        options = (step.layer, step.precision, step.batch_norm, step.chunk_size, step.output)
        usual = self.around is contextlib.nullcontext
        return (
            *(x, self.y, self.apart.parts(), type(penalty), fields, self.model),
            *(*options, step.everything, usual, self.backend, self.whole),
            *(step.generator is None, is_own(step.generator, x.device)),
            *(() if (here := at_hand()) is None else vars(here).values()),  # what a draw depends on
        )

    def _look(self) -> None:
        self.reason = hindrance()
        try:
            self.look = Look.at_all(self._things())
        except Refused as error:
            self.reason = str(error)
        if self.reason is None:
            self.key = (*self.look.key, *settings(self.x.device))
            self.plan = self.known.plans.get(self.key)

    def __call__(self, run: Run) -> tuple[Any, Tensor]:
        """Return what the run returns: by its plan, or by one that is made now, or eager."""
        if self.reason is None and self.plan is None:
            with _LOCK:
                self._make(run)
        if self.plan is not None:
            return self.replay()
        found = run()
        if self.reason is not None:  # only now: an error speaks for itself
            self.known.say(self.reason)
        return found

    def replay(self) -> tuple[Any, Tensor]:
        """Return what the run returns, by its plan."""
        assert self.plan is not None
        return self.plan(self.step, self.look, self.x, self.y, self.around)

    def _make(self, run: Run) -> None:
        plans = self.known.plans
        self.plan = plans.get(self.key)
        if self.key in plans:
            return
        if len(plans) >= LIMIT:
            self.reason = (
                f"more than {LIMIT} kinds of calls of the model: each shape, mode, attribute or "
                "setting that is another is traced anew"
            )
            return
        stray = None
        try:
            alone = run.asked._replace(arguments=self.apart)  # it leaves no trace
            made = trace(dataclasses.replace(run, asked=alone), self._things, self.look)
            backend, graphs = chosen(self.backend, made.forward, self.x.device), made.graphs()
            stray = elsewhere(graphs, self.x.device) if backend == "cudagraphs" else None
            self.plan = Plan(made, "traced" if stray else backend)
        except Refused as error:
            self.reason = str(error)
        except Exception as error:
            self.reason = f"an error while it was traced, {type(error).__name__}: {error}"
        plans[self.key] = self.plan
        if stray:
            self.known.say(stray, TRACED)
