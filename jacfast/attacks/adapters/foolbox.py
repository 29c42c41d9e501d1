"""deepfool and minimal_norm as attacks of foolbox."""

from typing import Any

from jacfast.attacks.adapters.choices import Name, choices
from jacfast.attacks.options import PRESETS


def for_foolbox(attack: Name = "deepfool", **options) -> Any:
    """Return a `foolbox.attacks` minimisation attack: ``attack(fmodel, x, y, epsilons=None)``.

    It gives what `L2DeepFoolAttack` (or, with ``p=inf``, `LinfDeepFoolAttack`) gives: raw and
    clipped inputs and success, for one epsilon, several or none. Box and preprocessing are those of
    the foolbox model; the other choices default to foolbox's.

    With ``attack="minimal_norm"`` it gives the shortest inputs that `minimal_norm` finds, in the
    same form.

    Args:
        attack: ``deepfool`` or ``minimal_norm``.
        options: of that attack. `p` is also the norm of the epsilons.

    Raises:
        ImportError: foolbox is not installed. TypeError, ValueError: an option is wrong. The
            attack, when called, raises what ours does, and ValueError for another criterion
            than Misclassification.
    """
    import eagerpy
    from foolbox.attacks.base import MinimizationAttack, get_criterion, raise_if_kwargs
    from foolbox.criteria import Misclassification
    from foolbox.distances import LpDistance

    usual = PRESETS["foolbox"] if attack == "deepfool" else {}
    chosen = choices("for_foolbox", attack, {}, usual, options)

    class Adapted(MinimizationAttack):
        distance = LpDistance(chosen.options.get("p", 2))

        def run(self, model, inputs, criterion, *, early_stop=None, **unknown):
            raise_if_kwargs(unknown)
            x, restore = eagerpy.astensor_(inputs)
            criterion = get_criterion(criterion)
            if not isinstance(criterion, Misclassification):
                raise ValueError(f"criterion must be Misclassification; got {criterion}")
            box = options.get("clip", tuple(model.bounds))
            y = criterion.labels.raw.long()
            found = chosen(model, x.raw, y, clip=box)
            return restore(eagerpy.astensor(found.adversarial))

    Adapted.__name__ = chosen.title
    return Adapted()
