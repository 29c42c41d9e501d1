"""Writing files so that a kill never leaves half of one."""

import os
import tempfile
from pathlib import Path


def write_atomically(content: bytes, path: Path) -> None:
    """Write `content` so that at any moment `path` is whole, the old one or the new."""
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as f:
        try:
            f.write(content)
            f.flush()
            os.fsync(f.fileno())
            os.replace(f.name, path)
        except BaseException:
            os.unlink(f.name)
            raise
