"""Writing files, and naming what is wrong with one."""

import errno
import os
import pickle
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from jacfast import files
from jacfast.files import check_writable, damage, tensor_file, write_atomically


def test_a_full_disk_is_named_with_the_path_and_leaves_nothing(tmp_path, monkeypatch):
    path = tmp_path / "result"
    write_atomically(b"old", path)

    def full(_descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(OSError, match=r"No space left on device: '.*result'"):
        write_atomically(b"new", path)
    assert path.read_bytes() == b"old"
    assert [file.name for file in tmp_path.iterdir()] == ["result"]


def test_where_files_can_be_made(tmp_path):
    check_writable(tmp_path / "not" / "yet")
    assert not list(tmp_path.iterdir())
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError, match=r"Not a directory: '.*file'"):
        check_writable(tmp_path / "file" / "folder")
    with pytest.raises(OSError, match="'/proc'"):  # to root as well
        check_writable(Path("/proc/folder"))


def test_a_link_stays_one_and_its_file_is_replaced(tmp_path):
    (tmp_path / "disk").mkdir()
    link, real = tmp_path / "result", tmp_path / "disk" / "elsewhere"
    link.symlink_to(real)  # to a file that is not there yet
    for content in (b"first", b"second"):
        write_atomically(content, link)
        assert link.is_symlink()
        assert real.read_bytes() == content
    assert [file.name for file in (tmp_path / "disk").iterdir()] == ["elsewhere"]


def test_what_is_no_file_is_written_to_and_not_replaced(tmp_path):
    """Else --json /dev/null, run as root, would make a file of /dev/null."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    end = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    try:
        write_atomically(b"figures", pipe)
        assert os.read(end, 100) == b"figures"
    finally:
        os.close(end)
    assert pipe.is_fifo()


def test_a_limit_on_the_size_of_files(tmp_path):
    resource = pytest.importorskip("resource", reason="a system without limits")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))
    try:
        with pytest.raises(OSError, match=r"File too large: '.*result'"):
            write_atomically(bytes(1000), tmp_path / "result")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not list(tmp_path.iterdir())


def test_a_file_of_tensors_is_the_same_whatever_the_order_of_its_words(tmp_path):
    path, tensors = tmp_path / "w.safetensors", {"b": torch.rand(3, 5), "a": torch.arange(4)}
    about = {name: f'{name}: "\N{GREEK SMALL LETTER RHO}"' for name in "cab"}
    path.write_bytes(tensor_file(tensors, about))
    assert tensor_file(tensors, dict(reversed(about.items()))) == path.read_bytes()
    with safe_open(path, "pt") as file:
        assert file.metadata() == about
        assert all(torch.equal(file.get_tensor(name), tensors[name]) for name in "ab")


def ours(tensors, path):
    path.write_bytes(tensor_file(tensors, {"about": "words"}))


@pytest.mark.parametrize(
    ("ending", "save"), [("pt", torch.save), ("safetensors", save_file), ("safetensors", ours)]
)
@pytest.mark.parametrize("kept", [0.0, 0.001, 0.5, 0.99, 0.99999])  # the last lacks a byte
def test_a_truncated_file_is_named_as_such(tmp_path, ending, save, kept):
    path, tensors = tmp_path / f"w.{ending}", {"w": torch.rand(100, 100)}
    save(tensors, path)
    content = path.read_bytes()
    path.write_bytes(content[: int(kept * len(content))])
    words = "truncated" if kept else "empty"
    assert words in damage(path, ValueError())
    path.write_bytes(bytes(range(256)) * 200)
    assert damage(path, ValueError()) == "the file is damaged"


def test_a_truncated_file_without_an_archive_is_known_by_the_error(tmp_path):
    """PyTorch's older format has no list of contents; whoever reads it meets the end."""
    path = tmp_path / "w.pt"
    torch.save({"w": torch.rand(100, 100)}, path, _use_new_zipfile_serialization=False)
    content = path.read_bytes()
    for size in (9, len(content) // 2):
        path.write_bytes(content[:size])
        with pytest.raises((EOFError, RuntimeError, pickle.UnpicklingError)) as caught:
            torch.load(path, weights_only=True)
        assert "truncated" in damage(path, caught.value)
