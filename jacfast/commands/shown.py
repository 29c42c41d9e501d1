"""Figures as a command prints them: lines for people, JSON for scripts."""

import json
import math
from typing import Any


def lines(figures: dict[str, float]) -> str:
    """Return a line per figure."""
    width = max(map(len, figures))
    return "\n".join(f"{name:<{width}}  {value:>10.5g}" for name, value in figures.items())


def as_json(figures: Any) -> str:
    """Return one JSON object; what is NaN or infinite, which JSON does not know, as null."""
    return json.dumps(_finite(figures), allow_nan=False, default=str)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _finite(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
