"""A model as a function of x alone: what every attack and measure calls."""

import contextlib
import copy
import functools
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, ParamSpec, TypedDict, TypeVar, cast

import torch
from torch import Tensor

from jacfast.calling.arguments import Arguments
from jacfast.calling.contexts import for_logits_alone, uncompiled
from jacfast.calling.frozen import unfrozen
from jacfast.calling.inputs import check_input, check_untransformed, ordinary
from jacfast.calling.outputs import Output, as_logits, as_rows, check_depends, pick
from jacfast.calling.state import State
from jacfast.calling.warning import warn
from jacfast.calling.watch import unseen
from jacfast.ops.checks import same_device

P = ParamSpec("P")
R = TypeVar("R")

AnyModel = Any  # of functions with `takes_model`: whatever can be called; they get a `Call`


LABELS = ("y", "target")
STAY = "left its arguments as they were"


class Further(TypedDict, total=False):
    """What every function that takes a model takes beside its own arguments."""

    args: Sequence[Any]
    kwargs: Mapping[str, Any] | None
    output: Output


ABOUT = """
    ``args`` and ``kwargs`` are passed to the model after x, those of N entries sample by sample;
    ``output`` says which of several outputs are the logits: see `jacfast.calling`.
    """


class Call:
    """A model, its further arguments for the samples of a batch, and which of its outputs counts.

    Args:
        model: whatever the user has: a module, a function, an object.
        samples: N, of the batch that the arguments are for.
        args, kwargs: see `Arguments`; output: see `jacfast.calling.pick`.

    Raises:
        TypeError: the model cannot be called, or an argument is not as there.
    """

    def __init__(
        self,
        model: Callable[..., Any],
        samples: int,
        args: Sequence = (),
        kwargs: Mapping[str, Any] | None = None,
        output: Output = None,
    ) -> None:
        if not callable(model):
            raise TypeError(f"model must be a function of x; got {type(model).__name__}")
        self.model, self.output, self.samples = model, output, samples
        self.arguments = Arguments(args, kwargs, samples=samples)
        self._done: set[str] = set()  # shared by all parts of a batch
        self._whole = True  # or some of the samples

    def __call__(self, x: Tensor, own: bool = False) -> Tensor:
        """Return the tensor that is meant, as the model gives it.

        It gets a copy, through which gradients flow: a model may begin with an operation in place
        (``x.sub_(mean)``), which would change the user's x, and is an error on a leaf. If x is its
        `own`, no leaf and of use to nobody else, there is no copy.
        """
        looking = unseen(self.model) if self.first_time("called") else contextlib.nullcontext()
        once = functools.partial(self._returned, x, own)
        with looking:
            returned = for_logits_alone(once if own else functools.partial(unfrozen, once))
        found = pick(returned, self.output)
        if torch.is_grad_enabled() and x.requires_grad:
            check_depends(found.requires_grad)
        return found

    def _returned(self, x: Tensor, own: bool) -> Any:
        with self._given() as arguments:
            return arguments.call(self.model, x if own else x.clone())

    @contextlib.contextmanager
    def _given(self) -> Iterator[Arguments]:
        """Give the arguments as they were at first: a model may write to them (a cache of tokens).

        Where a call of the whole batch does not, none is looked at again.
        """
        if STAY in self._done or not self.arguments.any or torch.compiler.is_compiling():
            yield self.arguments
            return
        before, own = State(None, arguments=self.arguments), self.arguments.copied()
        then, whole = own.content(), False
        try:
            yield own
            whole = self._whole  # and to its end
        finally:
            if before.changed():
                before.undo()
            elif whole and own.content() == then:
                self._done.add(STAY)

    def rows(self, index: slice | Tensor) -> "Call":
        """Return the call of some samples: a slice, or a tensor of indices or of bool, as of x."""
        every = range(self.samples)
        samples = len(every[index] if isinstance(index, slice) else index)  # of bool at most
        arguments = self.arguments.rows(index)
        return self._with(
            arguments=arguments, samples=samples, _whole=self._whole and arguments is self.arguments
        )

    def around(self, model: Callable[..., Any]) -> "Call":
        """Return the call of another model with the same arguments."""
        return self._with(model=model)

    @property
    def plain(self) -> Callable[..., Any]:
        """The user's model itself where it is called with x alone, for functions of the user's."""
        alone = self.output is None and not self.arguments.any
        return self.model if alone else self

    def first_time(self, what: str) -> bool:
        """Say whether nobody has asked this before, for the batch or a part of it."""
        first = what not in self._done
        self._done.add(what)
        return first

    def _with(self, **changes: Any) -> "Call":
        other = copy.copy(self)
        vars(other).update(changes)
        return other


def takes_model(function: Callable[P, R]) -> Callable[P, R]:
    """Let a function of (model, x, ...) take ``args``, ``kwargs`` and ``output``, too.

    For type checkers it has ``**further: Unpack[Further]``, which stays empty: it gets a `Call` as
    its model, and an x that has been checked, without a graph. A `Call` that is passed in goes
    through as it is, for the batch it was made for.
    """

    @functools.wraps(function)
    def called(
        model: Any,
        x: Tensor,
        *rest: Any,
        args: Sequence = (),
        kwargs: Mapping[str, Any] | None = None,
        output: Output = None,
        **options: Any,
    ) -> R:
        for name in options if closed else ():
            if name not in taken:
                known = ", ".join(called.__signature__.parameters)  # type: ignore[attr-defined]
                raise TypeError(f"{function.__name__} takes no option {name}; it takes {known}")
        check_input(x)
        check_untransformed(function.__name__, x)
        x = ordinary(x).detach()
        for name, given in {**dict(zip(names, rest, strict=False)), **options}.items():
            if name in LABELS and isinstance(given, Tensor):
                same_device(name, given, "x", x)
        if not isinstance(model, Call):
            model = Call(model, len(x), args, kwargs, output)
        return function(model, x, *rest, **options)  # type: ignore[arg-type]

    own, added = inspect.signature(function), inspect.signature(called, follow_wrapped=False)
    names = list(own.parameters)[2:]
    parameters = list(own.parameters.values())
    last = [parameters.pop()] if parameters[-1].kind is inspect.Parameter.VAR_KEYWORD else []
    closed = all(parameter.name == "further" for parameter in last)
    taken = {parameter.name for parameter in parameters}
    parameters += [added.parameters[name] for name in Further.__annotations__]
    parameters += [parameter for parameter in last if parameter.name != "further"]
    called.__signature__ = own.replace(parameters=parameters)  # type: ignore[attr-defined]
    called.__doc__ = (function.__doc__ or "").rstrip() + "\n" + ABOUT
    return uncompiled(cast(Callable[P, R], called))


def logits_of(model: Callable[..., Any], x: Tensor, own: bool = False) -> Tensor:
    """Return the logits [N, K], or say what is wrong with them; say once what is no logits.

    `own`: as of a `Call`.
    """
    call = model if isinstance(model, Call) else Call(model, len(x))
    logits = as_logits(call(x, own), x)
    if call.first_time("looked at") and _probabilities(logits):
        warn(
            "the model's outputs look like probabilities; attacks and measures need the logits "
            "before them (a softmax keeps the classes, but no gradient, margin or loss)"
        )
    return logits


def outputs_of(model: Callable[..., Any], x: Tensor) -> Tensor:
    """Return the outputs [N, K], entries of dense ones as rows, or say what is wrong with them."""
    return as_rows(model(x), x)


def _probabilities(outputs: Tensor) -> bool:
    """Say whether every row is non-negative and sums to one, as after a softmax."""
    if outputs.shape[1] < 2:
        return False
    sums_to_one = (outputs.detach().double().sum(dim=1) - 1).abs() <= 1e-3  # False for NaN
    return bool((sums_to_one & (outputs >= 0).all(dim=1)).all())
