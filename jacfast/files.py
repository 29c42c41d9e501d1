"""Writing files so that a kill never leaves half of one."""

import os
import secrets
from pathlib import Path


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
