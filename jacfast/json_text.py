"""Figures as JSON, which knows neither NaN nor infinity."""

import json
import math
from typing import Any


def as_json(figures: Any, indent: int | None = None) -> str:
    """Return one JSON object; what is NaN or infinite as null."""
    return json.dumps(finite(figures), indent=indent, allow_nan=False, default=str)


def finite(value: Any) -> Any:
    """Return dicts, lists and numbers with None in the place of what is NaN or infinite.

    Numbers of NumPy are Python's own.
    """
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, dict):
        return {str(key): finite(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
