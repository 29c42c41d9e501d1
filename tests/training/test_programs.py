"""Models that are programs: TorchScript and torch.export."""

import warnings

import pytest
import torch

from jacfast import models
from jacfast.training import harden as module
from jacfast.training.harden import harden
from jacfast.training.mode import set_mode
from jacfast.training.options import Harden
from tests.data.files import write_mnist


def make(kind: str) -> torch.nn.Module:
    torch.manual_seed(0)
    net, x = models.mlp(784, 8, 10), torch.rand(2, 1, 28, 28)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        if kind == "script":
            return torch.jit.script(net)
        if kind == "trace":
            return torch.jit.trace(net, x)
        if kind == "frozen":
            return torch.jit.freeze(torch.jit.script(net.eval()))
    shapes = ({0: torch.export.Dim("batch")},) if kind == "export" else None
    return torch.export.export(net, (x,), dynamic_shapes=shapes).module()


def job(tmp_path, monkeypatch, kind: str) -> Harden:
    write_mnist(tmp_path / "data", train=20, test=10)
    torch.save(make(kind).state_dict(), tmp_path / "w.pt")
    monkeypatch.setattr(models, "load_factory", lambda _: make(kind))
    options = {"epochs": 1, "batch_size": 10, "eval_samples": 5, "data": tmp_path / "data"}
    return Harden(tmp_path / "out", model="nets:net", weights=tmp_path / "w.pt", **options)


@pytest.mark.parametrize("kind", ["script", "trace", "export"])
def test_programs_are_hardened(tmp_path, monkeypatch, kind):
    run = job(tmp_path, monkeypatch, kind)
    harden(run)
    then, now = (torch.load(path) for path in (run.weights, run.out / "hardened.pt"))
    assert then.keys() == now.keys()
    assert not torch.equal(then["1.weight"], now["1.weight"])


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("frozen", "model must have a parameter with requires_grad"),
        ("static", r"model must accept images of shape \[1, 28, 28\]; got AssertionError: Guard"),
    ],
)
def test_programs_that_cannot_be_are_refused_before_any_work(tmp_path, monkeypatch, kind, words):
    run = job(tmp_path, monkeypatch, kind)
    for work in ("measure", "fit"):
        monkeypatch.setattr(module, work, lambda *_, **__: pytest.fail("work was done"))
    with pytest.raises(ValueError, match=words):
        harden(run)
    assert not run.out.exists()


def test_modes_of_what_is_exported():
    model = make("export")
    assert not any(m.training for m in set_mode(model, training=False).modules())
    assert all(m.training for m in set_mode(model, training=True).modules())
