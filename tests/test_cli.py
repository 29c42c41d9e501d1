"""The command line as a whole: help, doctor, memory that ends, interrupts, pipes, JSON."""

import importlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from jacfast import __version__, cli, doctor
from jacfast.ops import lives
from tests.commands.test_options import CLASSIFIER


def test_doctor(capsys):
    assert cli.main(["doctor"]) == 0
    out = capsys.readouterr().out
    assert f"jacfast   {__version__}" in out
    for name in lives.NAMES:
        assert name in out
    life = "cpu" if lives.BUILT else "reference"
    assert f"on cpu: {life}" in out


def test_doctor_says_that_a_compiler_had_no_openmp(monkeypatch):
    build = {"torch": torch.__version__, "compiler": "1.2", "threads": "OpenMP", "cuda": ""}
    monkeypatch.setattr(lives, "BUILT", frozenset({"cpu"}))
    monkeypatch.setattr(lives, "BUILD", build)
    assert "OpenMP" not in doctor.report()
    build["threads"] = ""
    assert "compiler 1.2 without OpenMP: on the CPU the ops use one thread" in doctor.report()


def test_python_dash_m_says_why_a_reference_runs():
    done = subprocess.run(
        [sys.executable, "-m", "jacfast", "doctor"],
        env={**os.environ, "JACFAST_IMPL": "reference"},
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


CHUNK, BATCH = "a smaller --chunk-size", "a smaller --batch-size"

LEFT = [  # by command, what is noted where it has ended, what takes less memory, what it does then
    (["attack", "deepfool", *CLASSIFIER], "attack.json", CHUNK, "command goes on from"),
    (["attack", "fgsm", *CLASSIFIER], "attack.json", BATCH, "command goes on from"),
    (["bench", "--model", "a:b"], None, "a smaller --batch", None),
    (["harden", "--out"], "checkpoint.pt", CHUNK, "with --resume goes on from"),
    (["harden", "--out"], "training.pt", CHUNK, "with --resume goes on from"),
    (["plot", "cells", *CLASSIFIER], None, "fewer --samples", None),
    (["report", *CLASSIFIER], None, BATCH, None),
    (["reproduce", "deep-defense", "--out"], "run.json", None, "command goes on from"),
]


def test_every_command_is_in_the_table():
    assert {command[0] for command, *_ in LEFT} == set(cli.COMMANDS)


@pytest.mark.parametrize(("command", "note", "less", "again"), LEFT)
def test_what_is_left_and_what_the_command_has(command, note, less, again, tmp_path, capsys):
    """The advice is an option of that command, and what is said to be there is."""
    out = tmp_path / "out"
    kind = command[1] if command[0] == "attack" else None
    if less:
        with pytest.raises(SystemExit):
            cli.main([*command[: 2 if command[0] == "attack" else 1], "--help"])
        assert less.split()[-1] in capsys.readouterr().out
    module = importlib.import_module(f"jacfast.commands.{command[0]}")
    options = {"command": getattr(module, command[0]), "out": out, "name": kind}
    assert cli._again(options) == "the same command starts anew"
    assert cli._less(options) == (f"less is needed with {less}; " if less else "")
    if note:
        out.mkdir()
        (out / note).touch()
        assert f"{again} {out}" in cli._again(options)


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


def test_which_commands_have_the_common_options(capsys):
    """As docs/calls.md has it."""
    has = {}
    for name in (*cli.COMMANDS, "doctor"):
        with pytest.raises(SystemExit):
            cli.main([name, *(["fgsm"] if name == "attack" else []), "--help"])
        said = capsys.readouterr().out
        has[name] = {option for option in ("json", "quiet", "device") if f"--{option}" in said}
    every = {"json", "quiet", "device"}
    assert has == dict.fromkeys(cli.COMMANDS, every) | {"plot": {"quiet"}, "doctor": set()}
    page = (Path(__file__).parents[1] / "docs" / "calls.md").read_text()
    assert (
        "of the commands but `doctor`: figures for a script (`bench`: a file to write them" in page
    )
    assert page.count("`plot` has none") == 2


def test_a_mistyped_table_is_named_before_anything_else(capsys):
    assert cli.main(["reproduce", "jg-tabel3", "--quick"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("jacfast: name must be one of")
    assert "did you mean jg-table3" in said


@pytest.mark.parametrize(
    "start", [["-m", "jacfast"], [str(Path(sys.executable).with_name("jacfast"))]]
)
def test_an_interrupt_during_the_import_is_one_line(start, tmp_path):
    """A stand-in for torch says when its import begins, and takes long."""
    if not start[0].startswith("-") and not Path(start[0]).exists():
        pytest.skip("the command is not installed beside this Python")
    (tmp_path / "torch.py").write_text("import time\nprint('import', flush=True)\ntime.sleep(60)\n")
    root = str(Path(__file__).parents[1])
    process = subprocess.Popen(
        [sys.executable, *start, "doctor"],
        env={**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{root}"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    try:
        assert process.stdout.readline() == "import\n"
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=30)
    finally:
        process.kill()
    assert errors == "\njacfast: interrupted; nothing was begun\n"
    assert process.returncode == 130


@pytest.mark.parametrize("words", [["reproduce"], ["reproduce", "--json"]])
def test_nobody_who_reads_on_is_no_error(words):
    """As behind `| head`: no words, and the status of a program that the signal ends."""
    process = subprocess.Popen(
        [sys.executable, "-m", "jacfast", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    process.stdout.close()
    assert process.stderr.read() == ""
    assert process.wait(timeout=60) == 141


def test_another_pipe_that_breaks_is_an_error(monkeypatch, capfd):
    def broken(**_):
        raise BrokenPipeError(32, "of a worker")

    monkeypatch.setattr("jacfast.commands.reproduce.reproduce", broken)
    assert cli.main(["reproduce"]) == 2
    assert "of a worker" in capfd.readouterr().err


def test_json_is_one_object_and_no_words(tmp_path, monkeypatch, capsys):
    figures = {"before": {"rho_adv": float("nan"), "fgsm": {"0.1": 0.5}}, "step": (1, 2)}
    monkeypatch.setattr("jacfast.training.harden.harden", lambda *_: figures)
    assert cli.main(["harden", "--out", str(tmp_path), "--json"]) == 0
    want = {"before": {"rho_adv": None, "fgsm": {"0.1": 0.5}}, "step": [1, 2]}
    assert json.loads(capsys.readouterr().out) == want
