"""The command line: help, version, doctor."""

import argparse
import importlib
import inspect
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from jacfast import __version__, cli, doctor
from jacfast.commands import attack
from jacfast.commands.arguments import add_device, number
from jacfast.ops import lives
from jacfast.training.options import Harden


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


CLASSIFIER = ["--model", "a:b", "--weights", __file__, "--out"]


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


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["harden", "--out", "o", "--n", "some"], "must be an integer; got 'some' (or 'exact')"),
        (["reproduce", "--device", "foo"], "must be one that torch can use; got 'foo'"),
        (["reproduce", "--device", "meta"], "must be one that torch can use; got 'meta'"),
        (["reproduce", "--device", "cuda:99"], "must be one that torch can use; got 'cuda:99'"),
        (["reproduce", "--out", __file__], "must be a folder, or not be there; "),
        (["attack", "fgsm", *CLASSIFIER, __file__], "must be a folder, or not be there; "),
        (
            ["harden", "--out", "/proc/no/where"],
            "must be where files can be made; got /proc/no/where (",
        ),
        (
            ["harden", "--out", f"{__file__}/a"],
            f"can be made; got {__file__}/a ({__file__}: Not a dir",
        ),
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


@pytest.mark.parametrize(
    ("text", "value"), [("8/255", 8 / 255), ("0.03", 0.03), ("1e-3", 1e-3), ("inf", float("inf"))]
)
def test_numbers(text, value):
    assert number(text) == value


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


@pytest.mark.parametrize("text", ["8/0", "a", "nan", "1/2/3", "", "/2"])
def test_what_is_no_number(text):
    with pytest.raises(argparse.ArgumentTypeError, match="must be a number, such as"):
        number(text)


@pytest.mark.parametrize("name", attack.EVERY)
def test_an_attack_shows_its_own_options_and_defaults(name, capsys):
    """All of the signature, but what only tensors can say."""
    with pytest.raises(SystemExit):
        cli.main(["attack", name, "--help"])
    said = " ".join(capsys.readouterr().out.split())
    assert "default: None" not in said
    parameters = inspect.signature(attack.EVERY[name]).parameters
    own = {
        "start",
        "mask",
        "subspace",
        "generator",
        "batch_size",
        "progress",
        "args",
        "kwargs",
        "output",
    }
    for option, parameter in parameters.items():
        if parameter.kind is parameter.KEYWORD_ONLY and option not in own:
            assert f" --{option.replace('_', '-')}" in said, option
            if isinstance(parameter.default, int | str) and option != "clip":
                assert f"default: {parameter.default}" in said, option


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["fgsm", "--eps", "-1"], "jacfast: --eps must be finite and >= 0; got -1.0"),
        (["pgd", "--eps", "1", "--loss", "hinge"], "jacfast: --loss must be one of cross-entropy"),
        (["pgd", "--eps", "1", "--restarts", "2", "--no-random-start"], "--restarts must be 1"),
        (["jsma", "--steps", "3", "--pixels", "2"], "pixels=2 needs target"),
        (["deepfool", "--p", "1/2"], "jacfast: --p must be > 1"),
        (["deepfool", "--clip", "1,0"], "jacfast: --clip must be (low, high)"),
        (["deepfool", "--labels", "--target", "1"], "got both"),
        (["minimal-norm", "--budget", "3"], "jacfast: --budget must be >= 5"),
        (["minimal-norm", "--p", "1.5"], "jacfast: --p must be one of 1, 2, inf; got 1.5"),
        (["carlini_wagner", "--clip", "none"], "jacfast: --clip must be finite"),
    ],
)
def test_options_are_checked_before_model_and_data_are_loaded(words, message, capsys, monkeypatch):
    for work in ("models.load_factory", "data.load"):
        monkeypatch.setattr(f"jacfast.{work}", lambda *_: pytest.fail("it was loaded"))
    assert cli.main(["attack", *words, *CLASSIFIER, "there"]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["attack", "deepfool", *CLASSIFIER, "o", "--chunk-size", "0"],
            "--chunk-size: must be >= 1; got 0",
        ),
        (["attack", "fgsm", *CLASSIFIER, "o", "--eps", "8/0"], "--eps: must be a number"),
        (
            ["attack", "bim", *CLASSIFIER, "o", "--eps", "1", "--steps", "x"],
            "--steps: must be an in",
        ),
        (["harden", "--out", "o", "--weights", "no.pt"], "must be a file that is there; got no.pt"),
        (["harden", "--out", "o", "--n", "0"], "argument --n: must be >= 1; got 0 (or 'exact')"),
        (
            ["plot", "cells", *CLASSIFIER, "o", "--data", "nowhere"],
            "must be a folder that is there",
        ),
    ],
)
def test_values_are_refused_by_the_parser(words, message, capsys):
    with pytest.raises(SystemExit):
        cli.main(words)
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "want"),
    [
        (["--clip", "-1,1", "-x"], ["--clip=-1,1", "-x"]),
        (["--clip=0,1", "-1,1"], ["--clip=0,1", "-1,1"]),
        (["--mean", "-.5,-1/4", "--std", "-inf", "1"], ["--mean=-.5,-1/4", "--std=-inf", "1"]),
        (["--eps", "-", "--", "-1", "a", "-1"], ["--eps", "-", "--", "-1", "a", "-1"]),
        (["--labels", "--out", "-out"], ["--labels", "--out", "-out"]),
    ],
)
def test_a_value_that_begins_with_a_minus_belongs_to_its_option(words, want):
    assert cli._joined(words) == want


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


@pytest.mark.parametrize(("gpus", "rank", "want"), [(1, "1", "cuda"), (8, "3", "cuda:3")])
def test_each_process_takes_the_gpu_of_its_number(monkeypatch, gpus, rank, want):
    taken = []
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    monkeypatch.setattr(torch, "zeros", lambda *_, device: taken.append(device) or torch.ones(1))
    for name, value in (("TORCHELASTIC_RUN_ID", "x"), ("RANK", rank), ("LOCAL_RANK", rank)):
        monkeypatch.setenv(name, value)
    parser = argparse.ArgumentParser()
    add_device(parser.add_argument)
    assert parser.parse_args(["--device", "cuda"]).device == want
    assert taken == [want]  # no other GPU is touched


def test_processes_with_a_gpu_each_have_the_same_options(tmp_path):
    """Else they would take each other, and their checkpoints, for another run's."""
    runs = [Harden(out=tmp_path, device=device) for device in ("cuda:0", "cuda:3", "cuda")]
    assert runs[0].options() == runs[1].options() == runs[2].options()
    assert runs[0].options() != Harden(out=tmp_path, device="cpu").options()
