"""Training: one resumable loop, and hardening as post-processing."""

from jacfast.training.fit import fit
from jacfast.training.schedule import Schedule

__all__ = ["Schedule", "fit"]
