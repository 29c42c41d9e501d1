"""Folders that belong to one run."""

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import jacfast
from jacfast.runs import alone, check_own, claimed, compare, folder


def claim(out: Path, note: str, about: dict, result: bool = True) -> None:
    """Run something that leaves a result, or nothing."""
    with claimed(out, note, about):
        if result:
            (out / "result").write_text("1")


def test_a_folder_is_of_one_run(tmp_path):
    out = tmp_path / "a" / "b"
    claim(out, "note.json", {"eps": 0.1, "clip": (0, 1), "p": float("inf")})
    assert json.loads((out / "note.json").read_text())["clip"] == [0, 1]
    claim(out, "note.json", {"eps": 0.1, "clip": (0, 1), "p": float("inf")})
    files = {path: path.read_bytes() for path in out.iterdir()}
    for about, words in (
        ({"eps": 0.2, "clip": (0, 1), "p": float("inf")}, "eps was 0.1 and is now 0.2"),
        ({"eps": 0.1, "clip": (0, 1)}, "p was inf and is now None"),
        ({"eps": 0.1, "clip": (0, 1), "p": float("inf"), "x": 1}, "x was None and is now 1"),
    ):
        with pytest.raises(ValueError, match=f"belongs to another run: {words}"):
            claim(out, "note.json", about)
    with pytest.raises(ValueError, match=r"must be empty or of the same run; .* other files"):
        claim(out, "other.json", {"eps": 0.1})
    assert files == {path: path.read_bytes() for path in out.iterdir()}


def test_a_folder_without_results_is_free(tmp_path):
    (tmp_path / "note.json").write_text('{"eps": -1}')
    (tmp_path / ".hidden").write_text("half of a file")
    (tmp_path / "parts").mkdir()
    claim(tmp_path, "note.json", {"eps": 1})
    (tmp_path / "result").unlink()
    assert json.loads((tmp_path / "note.json").read_text()) == {"eps": 1}
    assert check_own(tmp_path, "note.json") == {"note.json"}
    assert check_own(tmp_path / "new", "note.json") == set()
    assert not (tmp_path / "new").exists()


def test_a_folder_with_a_folder_of_files_is_not_free(tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "1.jpg").write_bytes(b"mine")
    (tmp_path / folder.LOCK).write_text("of another program")
    with pytest.raises(ValueError, match=r"must be empty or of the same run; .* other files"):
        claim(tmp_path, "note.json", {"eps": 1})
    assert {path.name for path in tmp_path.iterdir()} == {"photos", folder.LOCK}
    assert (tmp_path / folder.LOCK).read_text() == "of another program"


@pytest.mark.parametrize("content", [b'{"eps": 0.', b"", b'["eps"]', b"1", b"\xff\xfe"])
def test_a_damaged_note_is_named(tmp_path, content):
    note = tmp_path / "note.json"
    note.write_bytes(content)
    (tmp_path / "result").write_text("1")
    with pytest.raises(
        ValueError, match=r"note\.json must be .*: put it back, or use another folder"
    ):
        claim(tmp_path, "note.json", {"eps": 0.1})
    assert note.read_bytes() == content


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_a_run_that_leaves_nothing_leaves_no_folder(tmp_path, error):
    out = tmp_path / "a" / "b"

    def fails() -> None:
        with claimed(out, "note.json", {}):
            (out / "parts").mkdir()
            raise error

    with pytest.raises(error):
        fails()
    assert not list(tmp_path.iterdir())
    (tmp_path / "mine" / "empty").mkdir(parents=True)
    claim(tmp_path / "mine", "note.json", {}, result=False)
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["empty"]


def test_two_runs_at_once_are_refused(tmp_path):
    with claimed(tmp_path / "out", "note.json", {}):
        with (
            pytest.raises(
                ValueError, match=rf"out .*out is in use by another run, process {os.getpid()}"
            ),
            claimed(tmp_path / "out", "note.json", {}),
        ):
            pytest.fail("two are at work")
        claim(tmp_path / "other", "note.json", {})
    claim(tmp_path / "out", "note.json", {})
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"note.json", "result"}


WORK = """
import sys, time
sys.modules["torch"] = None  # the lock needs none, and the test no seconds
import types
from pathlib import Path
root = Path(sys.argv[1])
for name in ("jacfast", "jacfast.runs"):
    package = types.ModuleType(name)
    package.__path__ = [str(root / name.replace(".", "/"))]
    sys.modules[name] = package
from jacfast.runs.lock import alone
with alone(Path(sys.argv[2]), "out"):
    print("at work", flush=True)
    time.sleep(60)
"""


def test_a_killed_run_is_not_in_the_way(tmp_path):
    lock, root = tmp_path / ".lock", Path(jacfast.__file__).parents[1]
    command = [sys.executable, "-c", WORK, str(root), str(lock)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout.readline() == "at work\n"
        with pytest.raises(ValueError, match=f"process {process.pid} on "), alone(lock, "out"):
            pytest.fail("two are at work")
    finally:
        process.kill()
        process.communicate()
    assert lock.exists()
    with alone(lock, "out"):
        pass
    assert not lock.exists()


@pytest.mark.parametrize("another", [False, True], ids=["gone", "another's"])
def test_a_lock_that_its_owner_removes_meanwhile_is_made_anew(tmp_path, monkeypatch, another):
    fcntl = pytest.importorskip("fcntl")
    flock, taken = fcntl.flock, []

    def late(file, how):
        if not taken:  # opened, and then that run came to its end
            (tmp_path / ".lock").unlink()
            if another:  # and the next one has begun
                (tmp_path / ".lock").write_text("")
        taken.append(how)
        flock(file, how)

    monkeypatch.setattr(fcntl, "flock", late)
    words = "here is in use by another run, process"
    with (
        alone(tmp_path / ".lock", "here"),
        pytest.raises(ValueError, match=words),
        alone(tmp_path / ".lock", "here"),
    ):
        pass
    assert len(taken) == 3


def test_a_run_is_named_without_those_that_were_killed_before_it(tmp_path):
    pytest.importorskip("fcntl")
    (tmp_path / ".lock").write_text("process 1 on another machine, which was killed")
    words = rf"another run, process {os.getpid()} on [^\n]* since [^,]*\): wait for its end"
    with (
        alone(tmp_path / ".lock", "here"),
        pytest.raises(ValueError, match=words),
        alone(tmp_path / ".lock", "here"),
    ):
        pass


def test_a_lock_is_held_until_it_is_gone(tmp_path, monkeypatch):
    """Else the next run would take it, and lose it to this one's end."""
    pytest.importorskip("fcntl")
    unlink, refused = Path.unlink, []

    def watched(path, **options):
        with pytest.raises(ValueError, match="in use by another run"), alone(path, "here"):
            pytest.fail("two are at work")
        refused.append(path)
        unlink(path, **options)

    with alone(tmp_path / ".lock", "here"):
        monkeypatch.setattr(Path, "unlink", watched)
    assert refused == [tmp_path / ".lock"]


def test_a_run_that_has_not_said_yet_who_it_is(tmp_path):
    fcntl = pytest.importorskip("fcntl")
    with (tmp_path / ".lock").open("w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        words = "another run, which has just started: wait"
        with pytest.raises(ValueError, match=words), alone(tmp_path / ".lock", "here"):
            pytest.fail("two are at work")


def test_a_file_system_without_locks(tmp_path, monkeypatch):
    def unknown(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(pytest.importorskip("fcntl"), "flock", unknown)
    claim(tmp_path, "note.json", {})
    assert {path.name for path in tmp_path.iterdir()} == {"note.json", "result"}


def test_hidden_files_that_somebody_has_tidied_away(tmp_path):
    with alone(tmp_path / ".lock", "here"):
        (tmp_path / ".lock").unlink()


def test_a_note_that_cannot_be_written_leaves_nothing(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(folder, "write_atomically", full)
    with pytest.raises(OSError, match="No space left"):
        claim(tmp_path / "out", "note.json", {})
    assert not list(tmp_path.iterdir())


def test_the_option_that_differs_is_shown():
    then = {f"option {number}": "a" * 60 for number in range(12)}
    with pytest.raises(ValueError, match=r"options was .*aaa', 'option 9.* and is now .*aab', '"):
        compare("here", {"options": then}, {"options": {**then, "option 8": "a" * 59 + "b"}})
