"""The training step: logits and penalty from one first-order node."""

from jacfast.step.attach import penalised
from jacfast.step.forward import WithPenalty, forward_with_penalty

__all__ = ["WithPenalty", "forward_with_penalty", "penalised"]
