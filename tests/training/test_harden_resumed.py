"""A hardening that goes on where it stopped: what may change on the way, and what may not."""

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from jacfast import models
from jacfast.training.harden import harden
from jacfast.training.options import Harden
from tests.training.runs import small_run


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize(
    "stop_at", [3, 5, 6, 8], ids=["first epochs", "last epoch", "between", "hardening"]
)
def test_interrupted_in_either_phase(tmp_path, monkeypatch, stop_at):
    """Six steps of training, two an epoch, and as many of hardening."""
    whole, parted = (
        small_run(tmp_path, out=tmp_path / name, train_epochs=3, epochs=3)
        for name in ("whole", "parted")
    )
    harden(whole)
    step, steps = torch.optim.Adam.step, []

    def stopped(self, *given, **more):
        steps.append(1)
        if len(steps) == stop_at + 1:
            raise KeyboardInterrupt
        return step(self, *given, **more)

    with monkeypatch.context() as patch:
        patch.setattr(torch.optim.Adam, "step", stopped)
        with pytest.raises(KeyboardInterrupt):
            harden(parted)
    assert (parted.out / "trained.pt").exists() == (stop_at >= 6)
    with pytest.raises(FileExistsError, match="holds an earlier run: continue it with --resume"):
        harden(parted)
    with pytest.raises(ValueError, match=r"lam was 0\.03 and is now 0\.5"):
        harden(dataclasses.replace(parted, lam=0.5), resume=True)
    harden(parted, resume=True)
    for name in ("trained.pt", "hardened.pt"):
        got, want = (torch.load(run.out / name, weights_only=True) for run in (parted, whole))
        assert all(torch.equal(got[key], want[key]) for key in want)


@pytest.mark.usefixtures("small")
def test_a_chunk_changes_roundings_alone_and_may_change_on_the_way(tmp_path):
    whole = small_run(tmp_path, out=tmp_path / "whole", train_epochs=2, epochs=4)
    parted = dataclasses.replace(whole, out=tmp_path / "parted", chunk_size=7)
    harden(whole)
    harden(parted)
    got, want = (torch.load(run.out / "hardened.pt", weights_only=True) for run in (parted, whole))
    assert not all(torch.equal(got[key], want[key]) for key in want)
    for key in want:
        torch.testing.assert_close(got[key], want[key], rtol=1e-3, atol=1e-5)
    (parted.out / "hardened.pt").unlink()
    harden(dataclasses.replace(parted, chunk_size=3), resume=True)
    assert (parted.out / "hardened.pt").exists()
    with pytest.raises(ValueError, match="chunk_size must be >= 1; got 0"):
        harden(dataclasses.replace(whole, out=tmp_path / "none", chunk_size=0))


@pytest.mark.usefixtures("small")
def test_other_weights_of_the_same_name_are_refused(tmp_path):
    weights = tmp_path / "w.pt"
    torch.save(models.fc500().state_dict(), weights)
    run = small_run(tmp_path, model="jacfast.models:fc500", weights=weights)
    harden(run)
    torch.save(models.fc500().state_dict(), weights)
    with pytest.raises(ValueError, match=r"weights was 'w\.pt, SHA-256 .* and is now 'w\.pt, SHA"):
        harden(run, resume=True)


@pytest.mark.usefixtures("small")
def test_resumed_on_the_same_data_elsewhere_and_on_no_others(tmp_path, monkeypatch):
    run = dataclasses.replace(small_run(tmp_path), data=Path("data"))
    shutil.copytree(tmp_path / "data", tmp_path / "moved" / "data")
    monkeypatch.chdir(tmp_path)
    harden(run)
    kept = {path: path.read_bytes() for path in run.out.glob("*.pt")}
    monkeypatch.chdir(tmp_path / "moved")
    harden(dataclasses.replace(run, data=tmp_path / "moved" / "data"), resume=True)
    file = tmp_path / "moved" / "data" / "train-images-idx3-ubyte"
    file.write_bytes(file.read_bytes()[:-1] + b"\x01")  # the last pixel of one image
    with pytest.raises(ValueError, match=r"data was 'SHA-256 .* and is now 'SHA-256 "):
        harden(run, resume=True)
    assert {path: path.read_bytes() for path in run.out.glob("*.pt")} == kept


@pytest.mark.usefixtures("small")
def test_what_the_weights_do_not_depend_on_may_change_on_the_way(tmp_path):
    weights = tmp_path / "w.pt"
    torch.save(models.fc500().state_dict(), weights)
    run = small_run(tmp_path)
    own = dataclasses.replace(
        run, out=tmp_path / "own", model="jacfast.models:fc500", weights=weights
    )
    harden(run)
    figures = harden(dataclasses.replace(run, eval_samples=7), resume=True)
    assert figures["options"]["eval_samples"] == figures["data"]["evaluated"] == 7
    with pytest.raises(ValueError, match="train_epochs was 1 and is now 2"):
        harden(dataclasses.replace(run, train_epochs=2), resume=True)
    harden(own)
    harden(dataclasses.replace(own, train_epochs=2), resume=True)


@pytest.mark.usefixtures("small")
def test_numbers_of_numpy(tmp_path):
    options = {"seed": 3, "epochs": 1, "batch_size": 20, "eval_samples": 5}
    numbers = {name: np.int64(value) for name, value in options.items()}
    run = small_run(tmp_path, lam=np.float64(0.1), **numbers)
    figures = harden(run)
    assert figures["options"]["lam"] == 0.1
    assert json.loads((run.out / "figures.json").read_text()) == figures
    harden(dataclasses.replace(run, lam=0.1, **options), resume=True)


def test_options_of_numpy_are_those_of_python(tmp_path):
    given = {"lam": 0.5, "lr": 0.25, "seed": 3, "mean": (0.5, 0.25), "std": (1.0, 2.0)}
    want = Harden(tmp_path, **given).options()
    for kind in (np.float64, np.float32):
        numpy = {
            name: tuple(map(kind, value)) if isinstance(value, tuple) else kind(value)
            for name, value in given.items()
        }
        found = Harden(tmp_path, **numpy | {"seed": np.int64(3)}).options()
        assert json.dumps(found) == json.dumps(want)
