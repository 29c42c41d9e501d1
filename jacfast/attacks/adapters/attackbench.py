"""deepfool as an attack of AttackBench and adv-lib."""

import torch
from torch import Tensor

from jacfast.attacks.adapters.choices import choices
from jacfast.attacks.deepfool import deepfool
from jacfast.attacks.options import PRESETS
from jacfast.renamed import renamed


@renamed(max_iter="steps")
def for_attackbench(
    model: torch.nn.Module,
    inputs: Tensor,
    labels: Tensor,
    targets: Tensor | None = None,
    targeted: bool = False,
    **options,
) -> Tensor:
    """Attack as AttackBench and adv-lib call an attack; return adversarial inputs in [0, 1].

    Args:
        model: maps [N, ...] to logits [N, K].
        inputs: [N, ...], floating point, in [0, 1].
        labels: [N] int64, the classes to leave; where `targeted` without `targets`, the classes to
            reach, as adv-lib has it.
        targets: [N] int64, the classes to reach where `targeted`, else not looked at.
        options: of `deepfool`; `norm` is its `p`. Those not given are
            adv-lib's.

    Returns:
        [N, ...], in the dtype of `inputs`, without a graph. Inputs that were not fooled come back
        as they were.

    Raises:
        TypeError, ValueError: as `deepfool`.

    Source: the form of the call: AttackBench (Cinà et al., AAAI 2025).
    """
    chosen = choices("for_attackbench", {"norm": "p"}, PRESETS["advlib"], options)
    if targeted:
        chosen["target"] = labels if targets is None else targets
    found = deepfool(model, inputs, None if targeted else labels, **chosen)
    fooled = found.success.view(-1, *[1] * (inputs.dim() - 1))
    return torch.where(fooled, found.adversarial, inputs)
