"""deepfool and minimal_norm as attacks of AttackBench and adv-lib."""

import torch
from torch import Tensor

from jacfast import checks
from jacfast.attacks.adapters.choices import Name, choices
from jacfast.attacks.options import PRESETS


def for_attackbench(
    model: torch.nn.Module,
    inputs: Tensor,
    labels: Tensor,
    *,
    targets: Tensor | None = None,
    targeted: bool = False,
    attack: Name = "deepfool",
    **options,
) -> Tensor:
    """Attack as AttackBench and adv-lib call an attack; return adversarial inputs in [0, 1].

    All after the labels goes by name: adv-lib's own attacks have their options in another order.

    Args:
        model: maps [N, ...] to logits [N, K].
        inputs: [N, ...], floating point, in [0, 1].
        labels: [N] int64, the classes to leave; where `targeted` without `targets`, the classes to
            reach, as adv-lib has it.
        targets: [N] int64, the classes to reach where `targeted`, else not looked at.
        attack: ``deepfool`` or ``minimal_norm``.
        options: of that attack; `norm` is its `p`. Those of `deepfool` that are not given are
            adv-lib's.

    Returns:
        [N, ...], in the dtype of `inputs`, without a graph. Inputs that were not fooled come back
        as they were.

    Raises:
        TypeError, ValueError: as the attack.

    Source: the form of the call: AttackBench (Cinà et al., AAAI 2025).
    """
    usual = PRESETS["advlib"] if attack == "deepfool" else {}
    chosen = choices("for_attackbench", attack, {"norm": "p"}, usual, options)
    targeted = checks.flag("targeted", targeted)
    reach = {"target": labels if targets is None else targets} if targeted else {}
    found = chosen(model, inputs, None if targeted else labels, **reach)
    fooled = found.success.view(-1, *[1] * (inputs.dim() - 1))
    return torch.where(fooled, found.adversarial, inputs.detach())
