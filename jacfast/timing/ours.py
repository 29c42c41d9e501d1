"""The penalised step by this library, as rivals.py has those of others: CE + lam R in ``.grad``."""

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from jacfast.penalties.base import Penalty
from jacfast.step import forward_with_penalty
from jacfast.timing.rivals import Step


def ours(penalty: Penalty, **options: Any) -> Step:
    """Return the step by `forward_with_penalty` with these options."""

    def step(model: nn.Module, x: Tensor, y: Tensor, lam: float) -> None:
        labels = y if penalty.needs_labels else None
        logits, value = forward_with_penalty(model, x, labels, penalty=penalty, **options)
        logits = logits.flatten(1)
        (F.cross_entropy(logits, y) + lam * value).backward()

    return step


def one_line(penalty: Penalty, **options: Any) -> Step:
    """Return the step by the penalty as a term of the loss, in an ordinary loop."""

    def step(model: nn.Module, x: Tensor, y: Tensor, lam: float) -> None:
        x = x.detach().requires_grad_()
        logits = model(x)
        (F.cross_entropy(logits, y) + lam * penalty(logits, x, y, **options)).backward()

    return step
