"""Lean layers: the same layers, with cheaper backward passes."""

from jacfast.lean.gram import Gram
from jacfast.lean.mode import Lean
from jacfast.lean.sweep import COLLECT, PULL, Sweep
from jacfast.lean.tables import ATTENTION, TRAINING, lean, training

__all__ = [
    "ATTENTION",
    "COLLECT",
    "PULL",
    "TRAINING",
    "Gram",
    "Lean",
    "Sweep",
    "lean",
    "training",
]
