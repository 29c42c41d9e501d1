"""The two ways to call each attack: for its images, and for what it found."""

import functools
import inspect
import math
from collections.abc import Callable
from typing import Any, ParamSpec, Protocol, TypeVar

import torch
from torch import Tensor

from jacfast.attacks.attack_result import AttackResult
from jacfast.attacks.box import Size
from jacfast.attacks.gradient import look
from jacfast.attacks.losses import Criterion
from jacfast.attacks.norms import lengths
from jacfast.calling import Call, classes_of, quiet, uncompiled

P = ParamSpec("P")
Returned = TypeVar("Returned", covariant=True)
Rich = TypeVar("Rich", bound=AttackResult, covariant=True)


class Attack(Protocol[P, Returned, Rich]):
    """A function of (model, x, y, ...) that has a `result`, called with the same arguments."""

    __name__: str

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Returned: ...

    def result(self, *args: P.args, **kwargs: P.kwargs) -> Rich: ...


def attack(
    p: float, *, ball: bool = False
) -> Callable[[Callable[P, Tensor]], Attack[P, Tensor, AttackResult]]:
    """Give an attack that returns images a `result`, an `AttackResult`.

    Args:
        p: the norm of its changes, where it has no argument p.
        ball: whether it keeps to the ball of radius eps, its argument, in that norm.
    """

    def decorate(function: Callable[P, Tensor]) -> Attack[P, Tensor, AttackResult]:
        signature = inspect.signature(function)

        @functools.wraps(function)
        def result(*args: P.args, **kwargs: P.kwargs) -> AttackResult:
            found = function(*args, **kwargs)  # first: its words for what it does not take
            given = signature.bind(*args, **kwargs)
            given.apply_defaults()
            return _measure(found, p, ball, **given.arguments)

        return _with_result(function, uncompiled(result))

    return decorate


def rich(function: Callable[P, Rich]) -> Attack[P, Rich, Rich]:
    """Give an attack that returns what it found a `result`: itself."""
    return _with_result(function, function)


def images_of(function: Callable[P, Rich]) -> Attack[P, Tensor, Rich]:
    """Let an attack that finds more than images return these; its `result` returns all."""

    @functools.wraps(function)
    def images(*args: P.args, **kwargs: P.kwargs) -> Tensor:
        return function(*args, **kwargs).adversarial

    @functools.wraps(function)
    def result(*args: P.args, **kwargs: P.kwargs) -> Rich:
        return function(*args, **kwargs)

    signature = inspect.signature(function).replace(return_annotation=Tensor)
    images.__signature__ = signature  # type: ignore[attr-defined]
    return _with_result(images, result)


def _with_result(function: Any, result: Any) -> Any:
    if result is not function:
        name = function.__name__
        result.__qualname__ = f"{name}.result"
        result.__doc__ = f"Attack as `{name}` does; return what it found: an `AttackResult`."
    function.result = result
    return function


def _measure(adversarial: Tensor, own: float, ball: bool, **given: Any) -> AttackResult:
    """Return what the images do, by the arguments that the attack was called with."""
    x, y, target, p = given["x"], given["y"], given["target"], float(given.get("p", own))
    further = {name: given[name] for name in ("args", "kwargs", "output")}
    call = given["model"]
    if not isinstance(call, Call):
        call = Call(call, len(x), **further)
    with quiet(call, gradients=False), torch.no_grad():
        before = look(call, x).argmax(dim=1) if y is None else y.clone()  # y is the caller's
        logits = look(call, adversarial)
    wanted = Criterion(before) if target is None else Criterion(target, targeted=True)
    r = adversarial - x.detach()
    return AttackResult(
        adversarial=adversarial,
        r=r,
        norm=lengths(r, p),
        success=wanted.met(logits),
        before=before,
        label=classes_of(logits),
        p=p,
        radius=_radius(given["eps"]) if ball else math.inf,
    )


def _radius(eps: Size) -> float:
    """Return that of a ball; of a tensor, the least number that it may be the rounding of."""
    if not isinstance(eps, Tensor):
        return float(eps)
    half = torch.finfo(eps.dtype).eps / 2 if eps.is_floating_point() else 0.0
    return float(eps.detach().max()) * (1 - half)
