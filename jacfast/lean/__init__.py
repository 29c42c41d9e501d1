"""Lean layers: the same layers, with cheaper backward passes."""

from jacfast.lean.mode import TRAINING, Lean, lean
from jacfast.lean.sink import Sink

__all__ = ["TRAINING", "Lean", "Sink", "lean"]
