"""Training: one resumable loop, and hardening as post-processing."""

from jacfast.training.fit import fit

__all__ = ["fit"]
