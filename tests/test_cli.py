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
    ],
)
def test_out_of_memory_says_what_needs_less(error, monkeypatch, capsys):
    def fails():
        raise error

    monkeypatch.setattr(cli, "_doctor", fails)
    assert cli.main(["doctor"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("jacfast: out of memory; less is needed with a smaller batch size (in")
    assert "chunk= of forward_with_penalty and jacobian" in said


def test_other_runtime_errors_are_not_taken_for_it(monkeypatch):
    def fails():
        raise RuntimeError("a fault")

    monkeypatch.setattr(cli, "_doctor", fails)
    with pytest.raises(RuntimeError, match=r"^a fault$"):
        cli.main(["doctor"])
