"""Writing files so that a kill never leaves half of one, and folders that belong to one run."""

import json
import os
import reprlib
import secrets
from pathlib import Path
from typing import Any


def write_atomically(content: bytes, path: Path) -> None:
    """Write `content` so that at any moment `path` is whole, the old one or the new."""
    part = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    with part.open("xb") as file:  # not tempfile: its files can be read by their owner alone
        try:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
            os.replace(part, path)
        except BaseException:
            part.unlink()
            raise


def check_own(out: Path, note: str) -> set[str]:
    """Refuse a folder that holds files, and not `note`: it is of something else.

    Returns:
        The names in it, without hidden files; of a folder that is not there none.

    Raises:
        ValueError: see above.
    """
    held = {path.name for path in out.iterdir() if path.name[0] != "."} if out.exists() else set()
    if held and note not in held:
        raise ValueError(f"out must be empty or of the same run; {out} holds other files")
    return held


def claim(out: Path, note: str, about: dict[str, Any]) -> None:
    """Take the folder `out`, made if it is not there, for one run: ``out/note`` says of which.

    Hidden files do not count, and a folder that holds nothing but the note is free: that run has
    left nothing to lose.

    Args:
        note: the name of the note, one for each kind of run.
        about: what the results depend on, of types that JSON has.

    Raises:
        ValueError: `out` holds files and no such note, or its note is damaged or says something
            else; nothing is changed.
    """
    file, about = out / note, json.loads(json.dumps(about))
    if check_own(out, note) - {note}:
        then = _read(file)
        for name in sorted({*then, *about}):
            if then.get(name) != about.get(name):
                raise ValueError(
                    f"out {out} belongs to another run: {name} was {reprlib.repr(then.get(name))} "
                    f"and is now {reprlib.repr(about.get(name))}; use the same arguments, or "
                    "another folder"
                )
    out.mkdir(parents=True, exist_ok=True)
    write_atomically(json.dumps(about, indent=2).encode(), file)


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
