"""Lean layers: the same layers, with cheaper backward passes."""

from jacfast.lean.gram import Gram
from jacfast.lean.mode import TRAINING, Lean, lean
from jacfast.lean.sink import Sink

__all__ = ["TRAINING", "Gram", "Lean", "Sink", "lean"]
