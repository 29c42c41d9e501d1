"""The command line: help, version, doctor."""

import subprocess
import sys

import pytest

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
