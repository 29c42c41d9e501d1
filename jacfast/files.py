"""Writing files so that a kill never leaves half of one, and naming those that are damaged."""

import contextlib
import json
import os
import secrets
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO

from torch import Tensor


@contextlib.contextmanager
def in_one_move(path: Path) -> Iterator[Path]:
    """Yield a file to write to, which takes the place of `path` in the end; after an error it goes.

    Of a link what it points to is replaced, and the link stays.

    Raises:
        OSError: it cannot be written (a full disk, say); the error names `path`.
    """
    real = Path(os.path.realpath(path))
    part = real.with_name(f".{real.name}.{secrets.token_hex(8)}")
    try:
        yield part
        os.replace(part, real)
    except BaseException as error:
        with contextlib.suppress(OSError):
            part.unlink()
        if isinstance(error, OSError):
            raise type(error)(error.errno, error.strerror, str(path)) from error
        raise


def check_writable(folder: Path) -> None:
    """Check, before any work, that a file can be made in `folder`, or in what it is to be in.

    Raises:
        OSError: it cannot; the error names the folder, which is there.
    """
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    try:
        with tempfile.TemporaryFile(dir=there):  # has no name: a kill leaves nothing
            pass
    except OSError as error:
        raise type(error)(error.errno, error.strerror, str(there)) from error


def write_atomically(content: bytes, path: Path) -> None:
    """Write `content` so that at any moment `path` is whole, the old one or the new.

    Raises:
        OSError: as `in_one_move`.
    """
    if path.exists() and not (path.is_file() or path.is_dir()):
        path.write_bytes(content)  # /dev/null or a pipe: no file may take its place
        return
    with in_one_move(path) as part, part.open("xb") as file:
        # not tempfile: its files can be read by their owner alone
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def tensor_file(tensors: Mapping[str, Tensor], about: Mapping[str, str]) -> bytes:
    """Return the content of a safetensors file, the same bytes for the same tensors and words.

    safetensors writes its metadata in an order that is another one in every process.
    """
    from safetensors.torch import save

    content = save(dict(tensors), dict(about))
    end = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:end])
    header["__metadata__"] = dict(sorted(about.items()))
    words = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    return content[:8] + words.ljust(end - 8) + content[end:]


def damage(path: Path, error: Exception) -> str:
    """Say what is wrong with a file of tensors that could not be read, with this `error`."""
    size = path.stat().st_size
    if size == 0:
        return "the file is empty"
    with path.open("rb") as file:
        head = file.read(8)
        if path.suffix == ".safetensors":
            short = size < _safetensors_end(head, file)
        else:
            short = head[:4] == b"PK\x03\x04" and not zipfile.is_zipfile(path)
    ends = any(words in str(error) for words in ("truncated", "unexpected EOF"))
    short = short or ends or isinstance(error, EOFError)
    return "the file is cut short (truncated)" if short else "the file is damaged"


def _safetensors_end(head: bytes, file: IO[bytes]) -> int:
    """Return where the tensors end, by what the header says; 0 if it is none."""
    length = int.from_bytes(head, "little")  # of the header, which follows
    if len(head) < 8 or length > 100_000_000:  # no file that safetensors would write
        return 0
    content = file.read(length)
    if len(content) < length:
        return 8 + length
    try:
        return 8 + length + max(entry["data_offsets"][1] for entry in _tensors(content))
    except (ValueError, KeyError, TypeError, IndexError):
        return 0


def _tensors(header: bytes) -> list[dict]:
    return [entry for name, entry in json.loads(header).items() if name != "__metadata__"]
