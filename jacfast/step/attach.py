"""Add the penalty to code that calls the model by itself: see `penalised`."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, Unpack

from torch import Tensor, nn

from jacfast.calling import Arguments, eager, logits_alone
from jacfast.calling.held import surely
from jacfast.checks import place
from jacfast.penalties.base import Penalty
from jacfast.penalties.frobenius import Frobenius
from jacfast.step.checks import check_kind
from jacfast.step.options import Options
from jacfast.step.step import Step, check_names

PATCH = "_compiled_call_impl"  # what nn.Module.__call__ calls first; no copy or pickle takes it


class Held:
    """What a penalised call leaves behind."""

    def __init__(self) -> None:
        self._penalty: Tensor | None = None

    @property
    def penalty(self) -> Tensor:
        """The penalty of the call, to add to the loss: a scalar, or as the penalty's reduction."""
        if self._penalty is None:
            raise RuntimeError(
                "the model was not called inside penalised(model), as model(x) (model.forward(x) "
                "passes by): no penalty"
            )
        return self._penalty


_inside: dict[int, Held] = {}  # by the model's id: no context can put back another's patch


@contextlib.contextmanager
def penalised(
    model: nn.Module,
    y: Tensor | None = None,
    *,
    penalty: Penalty = Frobenius(),
    argument: str | int | None = None,
    **options: Unpack[Options],
) -> Iterator[Held]:
    """Let one call of `model`, wherever it happens inside the context, compute the penalty, too.

    For training steps that one does not want to change:

        with jacfast.penalised(model, penalty=jacfast.Frobenius()) as held:
            loss = training_step(batch)  # calls model(x) once
        (loss + lam * held.penalty).backward()

    The call takes whatever arguments it is given, and returns what the model returns: of a
    dictionary, a tuple or the like every tensor has its gradient, a loss that the model computes
    itself, too. It costs what `forward_with_penalty` costs, whose `options` these are (but for
    ``args`` and ``kwargs``, which are the call's own). With ``chunk_size`` all tensors must have a
    row for each sample of a chunk; these are joined. Afterwards, also after an exception, the model
    is as it was; a copy made inside is a copy of the plain model. Attacks and measures
    inside get the plain model's logits, and are no such call. What is compiled runs as it was
    before inside.

    Args:
        argument: which argument of the call is x, by its name or its position, as it is passed;
            default: the first tensor.

    Raises:
        RuntimeError: the model is called a second time inside, or is inside another such context,
            of any thread; or ``held.penalty`` is read without a call. TypeError, ValueError: there
            is no such argument, or it is no floating-point tensor. And what `forward_with_penalty`
            raises.
    """
    check_kind(model)
    check_names(options, tuple(Options.__annotations__))
    argument = place("argument", argument)
    step, held, own = Step(penalty, **options, everything=True), Held(), None

    def restore() -> None:
        if vars(model).get(PATCH) is not call:
            return
        if own is None:
            del vars(model)[PATCH]
        else:
            vars(model)[PATCH] = own

    def leave() -> None:
        if _inside.get(id(model)) is held:
            restore()
            del _inside[id(model)]

    def call(*args: Any, **kwargs: Any) -> Any:
        alone = logits_alone()  # of an attack or a measure
        if held._penalty is not None and not alone:
            raise RuntimeError(
                "the model was called twice inside penalised(model): use forward_with_penalty for "
                "the call that is to be penalised"
            )
        restore()
        try:
            if alone:
                return model(*args, **kwargs)
            arguments = Around(args, kwargs, argument)
            returned, held._penalty = step(model, arguments.x, y, arguments)
        finally:
            vars(model)[PATCH] = call
        return returned

    try:
        if _inside.setdefault(id(model), held) is not held:  # one step, for threads
            raise RuntimeError(
                "model must be inside one penalised(model) at a time; got one that is inside "
                "another, of this thread or of another one: call forward_with_penalty for a second "
                "penalty, and give each thread a model of its own (copy.deepcopy)"
            )
        own = vars(model).get(PATCH)
        vars(model)[PATCH] = call
        with eager():  # what is compiled does not look at the patch
            yield held
    finally:
        surely(leave)


class Around(Arguments):
    """The arguments of a call, with x among them at its place."""

    def __init__(self, args: tuple, kwargs: dict[str, Any], place: str | int | None) -> None:
        given: dict[str | int, Any] = dict(enumerate(args))
        given.update(kwargs)
        if place is None:
            place = next((key for key, value in given.items() if isinstance(value, Tensor)), None)
        x = given.get(place)  # type: ignore[arg-type]
        if not isinstance(x, Tensor) or not x.dtype.is_floating_point:
            kind = str(x.dtype) if isinstance(x, Tensor) else type(x).__name__
            raise TypeError(
                "the model must be called with a floating-point x, the first tensor or the one "
                f"that argument= names, among {', '.join(map(repr, given)) or 'nothing'}; argument "
                f"{place!r} is {kind}"
            )
        self.x, self._place = x, place
        before = args[:place] if isinstance(place, int) else args
        after = args[place + 1 :] if isinstance(place, int) else ()
        named = {key: value for key, value in kwargs.items() if key != place}
        super().__init__((*before, *after), named, samples=x.size(0) if x.dim() else 0)

    @property
    def any(self) -> bool:
        """Say whether the call is more than ``model(x)``, which x by its name is."""
        return super().any or self._place != 0

    def parts(self) -> tuple:
        """Return what is passed, which of its tensors belong to the samples, and where x is."""
        return *super().parts(), self._place

    def call(self, model: Callable, x: Tensor) -> Any:
        """Return whatever the model returns for x in its place and the others in theirs."""

        def put(x: Tensor, *args: Any, **kwargs: Any) -> Any:
            if isinstance(self._place, int):
                return model(*args[: self._place], x, *args[self._place :], **kwargs)
            return model(*args, **kwargs, **{str(self._place): x})

        return super().call(put, x)
