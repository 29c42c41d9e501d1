"""A tiny hardening job: its data, its model, and the command line that runs it."""

import contextlib
import io
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

from jacfast import cli, models
from jacfast.training.options import Harden
from tests.data.files import write_mnist

NETS = """
import time, torch
from torch import nn
from jacfast import models

def tiny():
    torch.manual_seed(3)
    layers = [nn.Flatten(), nn.Linear(784, 16), nn.ReLU(), nn.Dropout(0.2), nn.Linear(16, 10)]
    return nn.Sequential(*layers)

class Slow(nn.Module):
    def forward(self, x):
        time.sleep(0.02)
        return x

def slow():
    return nn.Sequential(*tiny(), Slow())
"""


def make_job(folder: Path) -> Path:
    """Write data, a module with two model factories, and weights for them."""
    write_mnist(folder / "data", train=60, test=30)
    (folder / "nets.py").write_text(NETS)
    torch.manual_seed(3)
    torch.save(models.mlp(784, 16, 10).state_dict(), folder / "other.pt")
    with contextlib.chdir(folder):
        tiny = models.load_factory("nets:tiny")
    torch.save(tiny.state_dict(), folder / "w.pt")
    return folder


def called(folder: Path, *arguments: str) -> subprocess.CompletedProcess:
    """Run a command in this process, which has imported what a new one needs seconds for.

    In one thread, as `environment` has it.
    """
    assert arguments[:2] == ("-m", "jacfast")
    out, errors = io.StringIO(), io.StringIO()
    sys.modules.pop("nets", None)  # of another job
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with (
        contextlib.chdir(folder),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(errors),
    ):
        try:
            status = cli.main([*arguments[2:]])
        except SystemExit as refused:  # by the parser
            status = int(refused.code or 0)
        finally:
            torch.set_num_threads(threads)
    return subprocess.CompletedProcess(arguments, status, out.getvalue(), errors.getvalue())


def environment() -> dict[str, str]:
    root = str(Path(__file__).parents[2])
    return {**os.environ, "PYTHONPATH": f"{root}{os.pathsep}.", "OMP_NUM_THREADS": "1"}


def small_run(folder: Path, **options: Any) -> Harden:
    """Return a hardening of an epoch, after one of training, on 40 images that are written here."""
    usual = {"out": folder / "out", "train_epochs": 1, "epochs": 1, "batch_size": 20}
    return Harden(data=write_mnist(folder / "data"), **usual | options)


def harden_arguments(out: str, factory: str = "tiny", **options: object) -> list[str]:
    values: dict[str, object] = {
        "model": f"nets:{factory}",
        "weights": "w.pt",
        "data": "data",
        "epochs": 3,
        "batch_size": 20,
        "eval_samples": 20,
        **options,
    }
    words = [f"--{key.replace('_', '-')}={value}" for key, value in values.items()]
    return ["-m", "jacfast", "harden", "--out", out, *words]
