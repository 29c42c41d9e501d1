"""`jacfast attack` by several processes: the same files as by one, whoever is killed."""

import contextlib
import io
import subprocess
from pathlib import Path

import pytest
import torch

from jacfast import DeepFoolResult
from jacfast.cli import main
from jacfast.models import mlp
from tests.distributed.launch import torchrun

pytestmark = pytest.mark.slow
FACTORY = '''
import os, signal, time, torch
from jacfast.models import mlp

class Watched(torch.nn.Sequential):
    """A network that ends its process, or fails, at a call that the environment names."""
    calls = 0

    def forward(self, x):
        Watched.calls += 1
        first = os.environ.get("TORCHELASTIC_RESTART_COUNT") == "0"
        here = os.environ.get("RANK") == os.environ.get("ENDS")
        if first and here and Watched.calls == 15:
            if os.environ.get("HOW") == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            raise ValueError("this model is broken")
        if first and not here and "ENDS" in os.environ:
            time.sleep(0.3)  # so that most batches are the other one's
        return super().forward(x)

def make():
    return Watched(torch.nn.Flatten(), *mlp(784, 16, 10))
'''


@pytest.fixture(scope="module")
def given(tmp_path_factory) -> Path:
    """A folder with a model and its weights."""
    folder = tmp_path_factory.mktemp("given")
    (folder / "watched.py").write_text(FACTORY)
    torch.manual_seed(0)
    torch.save(
        torch.nn.Sequential(torch.nn.Flatten(), *mlp(784, 16, 10)).state_dict(),
        folder / "weights.pt",
    )
    return folder


def attack(given, out, processes=0, attack="deepfool", restarts=0, **options):
    what = ["--samples", "26", "--batch-size", "3", *(["--eps", "0.1"] if attack == "pgd" else [])]
    return run(given, out, ["attack", attack, *what], processes, restarts, **options)


def run(given, out, what, processes, restarts=0, **options):
    """Run a command, under torchrun with so many processes, or (0) in this one."""
    model = ["--model", f"{given / 'watched.py'}:make", "--weights", str(given / "weights.pt")]
    command = [*what, *model, "--out", str(out), "--quiet"]
    if processes:
        return torchrun("jacfast", processes, *command, restarts=restarts, **options)
    words, threads = io.StringIO(), torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with contextlib.redirect_stdout(words):
            status = main(command)
    finally:
        torch.set_num_threads(threads)
    return subprocess.CompletedProcess(command, status, words.getvalue(), "")


def content(out: Path) -> dict[str, bytes]:
    """Return what is there, but for hidden files: a kill may leave half of one."""
    files = (path for path in out.rglob("*") if path.is_file() and path.name[0] != ".")
    return {str(path.relative_to(out)): path.read_bytes() for path in files}


@pytest.fixture(scope="module")
def alone(given, tmp_path_factory):
    """What one process writes and prints, by attack."""
    found = {}
    for name in ("deepfool", "pgd"):
        out = tmp_path_factory.mktemp("alone") / name
        done = attack(given, out, attack=name)
        assert done.returncode == 0, done.stderr
        found[name] = content(out), done.stdout.replace(str(out), "OUT")
    return found


@pytest.mark.parametrize(("name", "processes"), [("deepfool", 2), ("deepfool", 4), ("pgd", 2)])
def test_files_and_figures_do_not_depend_on_the_number_of_processes(
    given, tmp_path, alone, name, processes
):
    out = tmp_path / "out"
    done = attack(given, out, processes, name)
    assert done.returncode == 0, done.stderr
    files, words = alone[name]
    assert content(out) == files
    assert done.stdout.replace(str(out), "OUT") == words
    if name == "deepfool":
        assert len(files) == 10  # nine batches and the note
        results = [DeepFoolResult.load(out / f"{number:06}.safetensors") for number in range(9)]
        assert len(DeepFoolResult.cat(results).norm) == 26


@pytest.mark.parametrize(
    ("name", "ends", "command"), [("deepfool", 1, True), ("pgd", 0, False)], ids=["command", "fork"]
)
def test_a_worker_is_killed_and_torchrun_starts_anew(given, tmp_path, alone, name, ends, command):
    out = tmp_path / "out"
    done = attack(given, out, 2, name, restarts=1, command=command, ENDS=str(ends), HOW="kill")
    assert done.returncode == 0, done.stderr
    assert "exitcode: -9" in done.stderr or "Signal 9" in done.stderr
    assert content(out) == alone[name][0]


def test_killed_without_a_restart_it_goes_on_with_another_number_of_processes(
    given, tmp_path, alone
):
    out = tmp_path / "out"
    killed = attack(given, out, 1, ENDS="0", HOW="kill")
    assert killed.returncode != 0
    some = content(out)
    want = alone["deepfool"][0]
    assert 0 < len(some) < len(want)
    assert attack(given, out, 2).returncode == 0
    assert content(out) == want


def test_a_worker_that_raises_stops_the_others_with_its_words(given, tmp_path):
    done = attack(given, tmp_path / "out", 2, ENDS="1", HOW="raise")
    assert done.returncode != 0
    assert "jacfast: this model is broken" in done.stderr


def test_hardening_by_two_processes_is_that_of_one(given, tmp_path):
    what = ["harden", "--epochs", "1", "--batch-size", "500", "--eval-samples", "20"]
    found = []
    for processes in (0, 2):
        out = tmp_path / str(processes)
        done = run(given, out, what, processes)
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("written:") == 1
        found.append(torch.load(out / "hardened.pt"))
        assert (out / "report.html").exists()
    began = torch.load(given / "weights.pt")
    moved = max(float((found[0][name] - began[name]).abs().max()) for name in began)
    far = max(float((found[0][name] - found[1][name]).abs().max()) for name in began)
    assert far < 0.05 * moved  # float32, through Adam: float64 is in test_fit_together.py
