"""The command line: help, version, doctor."""

import subprocess
import sys

import pytest
import torch

from jacfast import __version__, cli
from jacfast.ops import lives


def test_doctor(capsys):
    assert cli.main(["doctor"]) == 0
    out = capsys.readouterr().out
    assert f"jacfast   {__version__}" in out
    for name in lives.NAMES:
        assert name in out
    life = "cpu" if lives.BUILT else "reference"
    assert f"on cpu: {life}" in out


def test_python_dash_m_says_why_a_reference_runs():
    done = subprocess.run(
        [sys.executable, "-m", "jacfast", "doctor"],
        env={**__import__("os").environ, "JACFAST_IMPL": "reference"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.count("reference (JACFAST_IMPL=reference)") == len(lives.NAMES)


def test_usage(capsys):
    with pytest.raises(SystemExit) as caught:
        cli.main(["harden"])
    assert caught.value.code == 2
    assert "--out" in capsys.readouterr().err


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
        MemoryError(),
    ],
)
def test_out_of_memory_is_said_in_words(error, monkeypatch, capsys):
    def fails():
        raise error

    monkeypatch.setattr(cli, "_doctor", fails)
    assert cli.main(["doctor"]) == 2
    assert capsys.readouterr().err == "jacfast: out of memory; the same command starts anew\n"


CLASSIFIER = ["--model", "a:b", "--weights", "w.pt", "--out"]


@pytest.mark.parametrize(
    ("command", "note", "less", "again"),
    [
        (["attack", "deepfool", *CLASSIFIER], "attack.json", "--chunk", "command goes on from"),
        (["attack", "fgsm", *CLASSIFIER], None, "--batch-size", "command starts anew"),
        (["harden", "--out"], "checkpoint.pt", "--chunk", "with --resume goes on from"),
        (["harden", "--out"], "training.pt", "--chunk", "with --resume goes on from"),
        (["plot", "cells", *CLASSIFIER], None, "--samples", "command starts anew"),
        (["reproduce", "deep-defense", "--out"], "run.json", None, "command goes on from"),
    ],
)
def test_what_is_left_and_what_the_command_has(command, note, less, again, tmp_path, capsys):
    """The advice is an option of that command, and what is said to be there is."""
    out = tmp_path / "out"
    kind = "deepfool" if "deepfool" in command else command[0]
    assert cli.LESS.get(kind, "").split(",")[0].split(" ")[-1] == (less or "")
    if less:
        with pytest.raises(SystemExit):
            cli.main([command[0], "--help"])
        assert less in capsys.readouterr().out
    assert cli._again(kind, out) == "the same command starts anew"
    if note:
        out.mkdir()
        (out / note).touch()
        assert f"{again} {out}" in cli._again(kind, out)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["harden", "--out", "o", "--n", "some"], "must be a number, or 'exact'; got 'some'"),
        (["reproduce", "--device", "foo"], "must be one that torch can use; got 'foo'"),
        (["reproduce", "--device", "meta"], "must be one that torch can use; got 'meta'"),
        (["reproduce", "--device", "cuda:99"], "must be one that torch can use; got 'cuda:99'"),
        (["reproduce", "--out", __file__], "must be a folder, or not be there; "),
        (["attack", "fgsm", *CLASSIFIER, __file__], "must be a folder, or not be there; "),
    ],
)
def test_arguments_are_refused_in_words(arguments, words, capsys):
    with pytest.raises(SystemExit) as caught:
        cli.main(arguments)
    assert caught.value.code == 2
    assert words in capsys.readouterr().err


def test_harden_leaves_the_folder_of_something_else_alone(tmp_path, capsys):
    (tmp_path / "report.html").write_text("of a reproduction")
    assert cli.main(["harden", "--out", str(tmp_path)]) == 2
    assert f"{tmp_path} holds other files" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]


def test_other_runtime_errors_are_not_taken_for_it(monkeypatch):
    def fails():
        raise RuntimeError("a fault")

    monkeypatch.setattr(cli, "_doctor", fails)
    with pytest.raises(RuntimeError, match=r"^a fault$"):
        cli.main(["doctor"])
