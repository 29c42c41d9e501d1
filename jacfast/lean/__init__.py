"""Lean layers: the same layers, with cheaper backward passes."""

# ruff: noqa: F401 -- what is imported here is for the other rooms

from jacfast.lean.gram import Gram
from jacfast.lean.mode import Lean
from jacfast.lean.sweep import COLLECT, PULL, Sweep
from jacfast.lean.tables import ATTENTION, TRAINING, lean, training
