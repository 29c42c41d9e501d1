"""Training: one resumable loop, the losses of the defences, and hardening as post-processing."""

from jacfast.training.attacked import attack_once
from jacfast.training.deep_defense import deep_defense_penalty
from jacfast.training.defence import Defence
from jacfast.training.fit import fit
from jacfast.training.schedule import Schedule

__all__ = ["Defence", "Schedule", "attack_once", "deep_defense_penalty", "fit"]


def __dir__() -> list[str]:
    return sorted(__all__)
