"""Lean layers: the same layers, with cheaper backward passes."""

from jacfast.lean.gram import Gram
from jacfast.lean.mode import TRAINING, Lean, lean
from jacfast.lean.sweep import COLLECT, PULL, Sweep

__all__ = ["COLLECT", "PULL", "TRAINING", "Gram", "Lean", "Sweep", "lean"]
