"""Folders that belong to one run."""

import contextlib
import json
import reprlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jacfast.files import write_atomically
from jacfast.runs.lock import alone

LOCK = ".lock"


def check_own(out: Path, note: str) -> set[str]:
    """Refuse a folder that holds files, and not `note`: it is of something else.

    Returns:
        The names in it, without hidden files and empty folders; of one that is not there none.

    Raises:
        ValueError: see above.
    """
    inside = list(out.iterdir()) if out.exists() else []
    held = {path.name for path in inside if path.name[0] != "." and not _is_empty(path)}
    if held and note not in held:
        raise ValueError(f"out must be empty or of the same run; {out} holds other files")
    return held


def _is_empty(path: Path) -> bool:
    return path.is_dir() and not any(path.iterdir())


@contextlib.contextmanager
def held(out: Path) -> Iterator[None]:
    """Have the folder `out`, made if it is not there, for one run at a time.

    Folders that were made for it, and are empty in the end, are removed again.

    Raises:
        ValueError: another run is at work in it.
    """
    made = [path for path in (out, *out.parents) if not path.exists()]
    out.mkdir(parents=True, exist_ok=True)
    try:
        with alone(out / LOCK, f"out {out}"):
            yield
    finally:
        with contextlib.suppress(OSError):  # not empty
            for path in made:
                path.rmdir()


@contextlib.contextmanager
def claimed(out: Path, note: str, about: dict[str, Any]) -> Iterator[None]:
    """Have the folder `out` for one run: ``out/note`` says of which, and no other is at work in it.

    Hidden files do not count, and a folder that holds nothing but the note is free: that run has
    left nothing to lose. If this one leaves nothing, the note goes, too, and the folder if it was
    made.

    Args:
        note: the name of the note, one for each kind of run.
        about: what the results depend on, of types that JSON has.

    Raises:
        ValueError: `out` holds files and no such note, or its note is damaged or says something
            else, or another run is at work in it; nothing is changed.
    """
    file, about = out / note, json.loads(json.dumps(about))
    check_own(out, note)
    with held(out):
        there = set(out.iterdir())
        if check_own(out, note) - {note}:
            compare(f"out {out}", _read(file), about)
        try:
            write_atomically(json.dumps(about, indent=2).encode(), file)
            yield
        finally:
            for path in filter(_is_empty, set(out.iterdir()) - there):
                path.rmdir()
            if not check_own(out, note) - {note}:
                file.unlink(missing_ok=True)


def compare(place: str, then: dict[str, Any], now: dict[str, Any]) -> None:
    """Refuse to go on in a place of another run."""
    for name in sorted({*then, *now}):
        if then.get(name) != now.get(name):
            raise ValueError(
                f"{place} belongs to another run: {name} was {_shown(then.get(name))} and is now "
                f"{_shown(now.get(name))}; use the same arguments, or another folder"
            )


def _shown(value: Any) -> str:
    short = reprlib.Repr()
    short.maxdict, short.maxstring = 20, 100
    return short.repr(value)


def _read(note: Path) -> dict[str, Any]:
    """Return what a note says."""
    try:
        about = json.loads(note.read_text())
        if not isinstance(about, dict):
            raise ValueError(f"it holds a {type(about).__name__}")
    except ValueError as error:  # JSONDecodeError and UnicodeDecodeError are such
        raise ValueError(
            f"{note} must be the JSON object that was written; {error}: put it back, or use "
            "another folder"
        ) from error
    return about
