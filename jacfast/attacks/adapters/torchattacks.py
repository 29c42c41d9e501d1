"""deepfool and minimal_norm as attacks of torchattacks."""

from typing import Any

import torch
from torch import Tensor

from jacfast.attacks.adapters.choices import Name, choices
from jacfast.calling import quiet

# As torchattacks' DeepFool: every class, [0, 1], each step clipped.
USUAL = {"candidates": None, "clip": (0.0, 1.0), "clip_steps": True, "steps": 50}


def for_torchattacks(
    model: torch.nn.Module, steps: int | None = None, attack: Name = "deepfool", **options
) -> Any:
    """Return a `torchattacks` attack: ``attack(images, labels)`` gives adversarial images.

    As torchattacks' DeepFool: every class, [0, 1], each step clipped; or `minimal_norm` in [0, 1].
    The model ends in the mode it was in, module by module.

    Args:
        model: maps images [N, C, H, W] to logits [N, K]; torchattacks may normalise them for it
            (``set_normalization_used``).
        steps: of `deepfool`; default 50.
        attack: ``deepfool`` or ``minimal_norm``.
        options: of that attack.

    Raises:
        ImportError: torchattacks is not installed. TypeError, ValueError: an option is wrong. The
            attack, when called, raises what ours does.
    """
    from torchattacks.attack import Attack

    given = options if steps is None else {"steps": steps, **options}
    chosen = choices("for_torchattacks", attack, {}, USUAL if attack == "deepfool" else {}, given)

    class Adapted(Attack):
        def __init__(self) -> None:
            super().__init__(chosen.title, model)
            self.supported_mode = ["default"]

        def forward(self, images: Tensor, labels: Tensor) -> Tensor:
            x, y = images.detach().to(self.device), labels.detach().to(self.device)
            return chosen(self.get_logits, x, y).adversarial

        def __call__(self, *args, **kwargs) -> Tensor:
            with quiet(self.model):
                return super().__call__(*args, **kwargs)

    Adapted.__name__ = chosen.title
    return Adapted()
