"""The result as a table of at most 100 columns, and in words."""

import textwrap
from typing import TYPE_CHECKING

from jacfast.timing.reasons import best_line, noise, reasons

if TYPE_CHECKING:
    from jacfast.timing.result import Result, Row

WIDTH, NAME = 100, 40
HEADINGS = ("ms", "plain steps", "peak MB", "spread", "error")
WIDTHS = (9, 11, 9, 8, 8)


def table(result: "Result") -> str:
    """Return the title, the groups with their rows, and what follows from them."""
    lines = _wrapped(", ".join(f"{key} {value}" for key, value in result.about.items()))
    machine = [result.environment.get(key, "") for key in ("processor", "gpu")]
    machine += [f"{result.environment.get('threads', '?')} threads"]
    machine += [f"torch {result.environment.get('torch', '?')}"]
    lines += _wrapped(", ".join(word for word in machine if word))
    lines += _wrapped(f"checked: {result.check}" if result.check else "nothing was checked yet")
    lines += ["", _cells("", HEADINGS)]
    group = ""
    for row in result.rows:
        if row.group != group:
            group = row.group
            lines += ["", *_wrapped(group)]
        lines += _row(row)
    lines += [""] + [line for words in _words(result) for line in _wrapped(words)]
    lines += _deepfool(result.deepfool)
    return "\n".join(line.rstrip() for line in lines)


def _words(result: "Result") -> list[str]:
    words = [f"{result.rounds} rounds of turns were finished"]
    if result.interrupted:
        words[0] += "; interrupted: rows without a spread are single steps, not taken in turns"
    words += [noise(result.rows), *result.notes, best_line(result), *reasons(result)]
    return [line for line in words if line]


def _row(row: "Row") -> list[str]:
    name = f"  {row.name}" if row.group else row.name
    if row.why:
        return _wrapped(f"{name}: {row.why}", indent="    ")
    steps = "" if row.plain_steps is None else f"{row.plain_steps:.2f}"
    cells = (
        "" if row.seconds is None else _milliseconds(row.seconds),
        steps,
        "" if row.peak_bytes is None else _megabytes(row.peak_bytes),
        "" if row.spread is None else f"{100 * row.spread:.0f}%",
        "" if row.error is None else f"{row.error:.0e}",
    )
    return [_cells(name, cells)]


def _megabytes(size: int) -> str:
    return f"{size / 1e6:,.{1 if size >= 1e6 else 3}f}"


def _milliseconds(seconds: float) -> str:
    return f"{1e3 * seconds:,.{1 if seconds >= 0.1 else 2 if seconds >= 0.001 else 4}f}"


def _cells(name: str, cells: tuple[str, ...]) -> str:
    right = [cell.rjust(width) for cell, width in zip(cells, WIDTHS, strict=True)]
    return "  ".join([name[:NAME].ljust(NAME), *right])


def _deepfool(found: dict) -> list[str]:
    if not found:
        return []
    if "why" in found:
        return ["", *_wrapped(f"DeepFool against foolbox's: left out, {found['why']}")]
    lines = ["", f"DeepFool, {found['images']} images, eval mode, from the predicted classes"]
    lines += [_cells("", ("seconds", "times", "mean ||r||", "fooled", ""))]
    for name, row in found["rows"].items():
        ratio = f"{row['ratio']:.1f}" if "ratio" in row else ""
        share = f"{100 * row['fooled']:.0f}%"
        title = name if name == "foolbox" else f"jacfast, {name}"
        seconds = f"{row['seconds']['median']:.3f}"
        lines += [_cells(f"  {title}", (seconds, ratio, f"{row['mean_norm']:.2e}", share, ""))]
    return lines


def _wrapped(text: str, indent: str = "  ") -> list[str]:
    return textwrap.wrap(text, WIDTH, subsequent_indent=indent, break_long_words=True) or [""]
