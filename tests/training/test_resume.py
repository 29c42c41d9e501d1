"""A killed run, resumed, ends with the same bits as one that was left alone."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from tests.forked import SERVER
from tests.training.runs import called, environment, harden_arguments


@pytest.fixture(scope="module")
def whole(job) -> Path:
    """Return what a run that was left alone has written."""
    alone = called(job, *harden_arguments("whole", "slow", epochs=12))
    assert alone.returncode == 0, alone.stderr
    return job / "whole" / "hardened.pt"


def weights(path: Path) -> dict[str, torch.Tensor]:
    return torch.load(path, weights_only=True)


def epoch_of(checkpoint: Path) -> int:
    return torch.load(checkpoint, weights_only=True)["epoch"] if checkpoint.exists() else 0


def assert_same_bits(a: Path, b: Path) -> None:
    first, second = weights(a), weights(b)
    assert first.keys() == second.keys()
    assert all(torch.equal(first[key], second[key]) for key in first)


@pytest.mark.slow
@pytest.mark.parametrize("extra_seconds", [0.0, 0.04], ids=["after-an-epoch", "inside-an-epoch"])
def test_killed_and_resumed(job, whole, extra_seconds):
    name = f"killed-{extra_seconds}"
    arguments = harden_arguments(name, "slow", epochs=12)
    process = SERVER.Process(target=called, args=(job, *arguments))
    process.start()
    deadline = time.monotonic() + 60
    while epoch_of(job / name / "checkpoint.pt") < 3:
        assert process.is_alive(), "the run ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.02)
    time.sleep(extra_seconds)
    process.kill()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert epoch_of(job / name / "checkpoint.pt") < 12
    assert not (job / name / "hardened.pt").exists()

    resumed = called(job, *arguments, "--resume")
    assert resumed.returncode == 0, resumed.stderr
    assert_same_bits(job / name / "hardened.pt", whole)
    start, end = weights(job / "w.pt"), weights(job / name / "hardened.pt")
    assert not torch.equal(start["1.weight"], end["1.weight"])


def test_interrupted_by_the_keyboard(job):
    process = subprocess.Popen(
        [sys.executable, *harden_arguments("interrupted", "slow", epochs=50)],
        cwd=job,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A job in the background of a script inherits an ignored interrupt.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    while epoch_of(job / "interrupted" / "checkpoint.pt") < 1:
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "--resume goes on from interrupted" in errors
    assert "Traceback" not in errors


def test_a_finished_run_resumed_gives_the_same_figures(job):
    assert called(job, *harden_arguments("finished"), "--resume").returncode == 0  # it begins
    first = weights(job / "finished" / "hardened.pt")
    again = called(job, *harden_arguments("finished"), "--resume")
    assert again.returncode == 0, again.stderr
    second = weights(job / "finished" / "hardened.pt")
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_what_is_refused(job):
    assert called(job, *harden_arguments("kept")).returncode == 0
    before = (job / "kept" / "checkpoint.pt").read_bytes()
    for arguments, message in (
        (harden_arguments("kept"), "holds an earlier run: continue it with --resume"),
        ([*harden_arguments("kept", lam=0.5), "--resume"], "lam was 0.03 and is now 0.5"),
    ):
        refused = called(job, *arguments)
        assert refused.returncode == 2
        assert message in refused.stderr
    assert (job / "kept" / "checkpoint.pt").read_bytes() == before
