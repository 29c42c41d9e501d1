"""An attack that a user gives, one of ours or one's own: what it must be, and what it returns."""

from collections.abc import Callable

from torch import Tensor, nn

from jacfast.attacks.attack_result import AttackResult
from jacfast.calling import Model

Attack = Callable[[nn.Module, Tensor, Tensor], Tensor | AttackResult]


def check_attack(attack: Attack) -> None:
    """Check an attack."""
    if not callable(attack):
        raise TypeError(f"attack must be a function of (model, x, y); got {attack!r}")


def perturb(attack: Callable[..., object], model: Model, x: Tensor, y: Tensor) -> Tensor:
    """Return the perturbed inputs that `attack` finds, of the dtype and on the device of x."""
    found = attack(model, x, y)
    moved = found.adversarial if isinstance(found, AttackResult) else found
    if not isinstance(moved, Tensor):
        raise TypeError(f"attack must return perturbed inputs; got {type(moved).__name__}")
    if moved.shape != x.shape:
        raise ValueError(
            f"attack must return inputs shaped as x, {list(x.shape)}; got {list(moved.shape)}"
        )
    return moved.to(x)
