"""Weights from files, as people have them, into a model."""

import copy
import os
import sys

import pytest
import torch
from torch import nn

from jacfast import models
from tests.nets import draw


def small(seed: int) -> nn.Sequential:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return models.mlp(4, 3, 2)


SMALL = small(seed=0)


def equal(first: nn.Module, second: nn.Module) -> bool:
    pairs = zip(first.state_dict().items(), second.state_dict().items(), strict=True)
    return all(a == b and torch.equal(x, y) for (a, x), (b, y) in pairs)


def test_weights_come_back(tmp_path):
    saved, model = small(seed=1), small(seed=2)
    assert not equal(saved, model)
    torch.save(saved.state_dict(), tmp_path / "w.pt")
    models.load_weights(model, tmp_path / "w.pt")
    assert equal(saved, model)


def test_weights_of_another_precision_and_buffers(tmp_path):
    saved = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3))
    saved(draw(5, 4, dtype=torch.float32))  # moves the running statistics
    torch.save(copy.deepcopy(saved).double().state_dict(), tmp_path / "w.pt")
    model = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3))
    models.load_weights(model, str(tmp_path / "w.pt"))
    assert model[0].weight.dtype == torch.float32
    assert equal(saved, model)


def test_safetensors(tmp_path):
    safe = pytest.importorskip("safetensors.torch", reason="safetensors is an optional package")
    saved, model = small(seed=1), small(seed=2)
    safe.save_file(saved.state_dict(), tmp_path / "w.safetensors")
    models.load_weights(model, tmp_path / "w.safetensors")
    assert equal(saved, model)
    (tmp_path / "w.safetensors").write_bytes(b"no")
    with pytest.raises(
        ValueError, match=r"w\.safetensors must be a state_dict; .*damaged: Safetensor"
    ):
        models.load_weights(model, tmp_path / "w.safetensors")
    assert equal(saved, model)


def prefixed(prefix: str) -> dict[str, torch.Tensor]:
    return {prefix + key: value for key, value in small(seed=1).state_dict().items()}


@pytest.mark.parametrize(
    "value",
    [
        {"state_dict": prefixed(""), "epoch": 3, "optimizer": {"lr": 0.1}},
        {"epoch": 3, "model": prefixed("module.")},
        {"model_state_dict": {"state_dict": prefixed("")}},
        prefixed("module."),
        prefixed("_orig_mod."),
        prefixed("_orig_mod.module."),
        prefixed("module._orig_mod.model."),
        prefixed("model.module."),  # Lightning's, of a model within DataParallel
        {key.replace(".", "._orig_mod."): value for key, value in prefixed("").items()},
    ],
)
def test_weights_as_people_have_them(tmp_path, value):
    model = small(seed=2)
    torch.save(value, tmp_path / "w.pt")
    models.load_weights(model, tmp_path / "w.pt")
    assert equal(model, small(seed=1))


def test_prefixes_that_are_the_models_own_stay(tmp_path):
    saved, model = (nn.ModuleDict({"module": nn.ModuleDict({"module": small(n)})}) for n in (1, 2))
    torch.save(
        {f"module.{key}": value for key, value in saved.state_dict().items()}, tmp_path / "w"
    )
    models.load_weights(model, tmp_path / "w")
    assert equal(saved, model)


class Extra(nn.Module):
    """A layer with a state that is no tensor, of which it refuses a negative one."""

    def __init__(self, calls=0) -> None:
        super().__init__()
        self.layer, self.calls = nn.Linear(4, 3), calls

    def get_extra_state(self):
        return {"calls": self.calls, "kind": "extra"}

    def set_extra_state(self, state):
        if state["calls"] < 0:
            raise KeyError("no such number of calls")
        self.calls = state["calls"]


@pytest.mark.parametrize("wrapped", [False, True])
def test_the_extra_state_of_a_module_is_loaded(tmp_path, wrapped):
    saved, model = nn.Sequential(Extra(3)), nn.Sequential(Extra())
    state = saved.state_dict()
    torch.save({"state_dict": state, "epoch": 3} if wrapped else state, tmp_path / "w.pt")
    models.load_weights(model, tmp_path / "w.pt")
    assert model[0].calls == 3
    assert torch.equal(model[0].layer.weight, saved[0].layer.weight)


def test_an_extra_state_that_the_module_refuses_changes_nothing(tmp_path):
    model = nn.Sequential(Extra(1), Extra(2))
    before = copy.deepcopy(model.state_dict())
    torch.save(nn.Sequential(Extra(3), Extra(-1)).state_dict(), tmp_path / "w.pt")
    with pytest.raises(ValueError, match=r"w\.pt must fit the model: KeyError.*no such number"):
        models.load_weights(model, tmp_path / "w.pt")
    assert [one.calls for one in model] == [1, 2]
    for name, value in model.state_dict().items():
        assert value == before[name] if "extra" in name else torch.equal(value, before[name])


def test_an_extra_state_of_another_shape_is_the_modules_own_affair(tmp_path):
    class Sized(Extra):
        def get_extra_state(self):
            return torch.ones(self.calls)

        def set_extra_state(self, state):
            self.calls = len(state)

    model = Sized(2)
    torch.save(Sized(3).state_dict(), tmp_path / "w.pt")
    models.load_weights(model, tmp_path / "w.pt")
    assert model.calls == 3


def test_archives_of_programs_name_the_remedy(tmp_path):
    torch.jit.save(torch.jit.trace(SMALL, torch.rand(2, 4)), tmp_path / "script.pt")
    with pytest.raises(ValueError, match=r"torch\.jit\.load\('.*script\.pt'\)\.state_dict\(\)"):
        models.load_weights(SMALL, tmp_path / "script.pt")
    program = torch.export.export(SMALL, (torch.rand(2, 4),))
    torch.export.save(program, tmp_path / "program.pt2")
    with pytest.raises(ValueError, match=r"torch\.export\.load\('.*program\.pt2'\)\.state_dict"):
        models.load_weights(SMALL, tmp_path / "program.pt2")


def test_without_safetensors_the_error_names_the_command(tmp_path, monkeypatch):
    (tmp_path / "w.safetensors").touch()
    monkeypatch.setitem(sys.modules, "safetensors.torch", None)
    with pytest.raises(ImportError, match="run pip install safetensors"):
        models.load_weights(SMALL, tmp_path / "w.safetensors")


class Hostile:
    def __reduce__(self):
        return os.mkdir, ("ran",)


def all_ones_but(key: str, tensor: torch.Tensor) -> dict[str, torch.Tensor]:
    """Return a state_dict that fits `SMALL` but for one tensor."""
    return {k: torch.ones_like(v) for k, v in SMALL.state_dict().items()} | {key: tensor}


@pytest.mark.parametrize(
    ("value", "rule"),
    [
        (
            all_ones_but("3.bias", torch.ones(3)),
            r"must fit the model: 3.bias is \[3\], the model's \[2\]",
        ),
        (all_ones_but("3.more", torch.ones(3)), "must fit the model: unexpected 3.more$"),
        (models.mlp(4, 2).state_dict(), r"missing 3.weight; missing 3.bias; 1.weight is \[2, 4\]"),
        (all_ones_but("3.bias", torch.ones(2, dtype=torch.complex64)), "3.bias is torch.complex64"),
        (all_ones_but("3.bias", torch.ones(2, device="meta")), "3.bias is not a plain tensor"),
        (all_ones_but("3.bias", torch.ones(2).to_sparse()), "3.bias is not a plain tensor"),
        (nn.Sequential(*[nn.ReLU()] * 14, *models.mlp(4, 3, 3, 3, 2)).state_dict(), "4 more$"),
        ({"model": {}, "epoch": 3}, "must fit the model: missing 1.weight; "),
        ({"model": {}, "net": {}, "epoch": 3}, "'model' is dict; 'net' is dict; 'epoch' is int$"),
        ([1, 2], "must be a state_dict of tensors; got list"),
        (Hostile(), r"more than tensors, a posix.mkdir, .* \(nothing in it was run\)"),
        (SMALL, r"a torch.nn.modules.container.Sequential.*weights_only=False\).state_dict\(\)"),
    ],
)
def test_weights_that_do_not_fit_change_nothing(tmp_path, monkeypatch, value, rule):
    monkeypatch.chdir(tmp_path)
    model = copy.deepcopy(SMALL)
    torch.save(value, "w.pt")
    with pytest.raises(ValueError, match=rule) as caught:
        models.load_weights(model, "w.pt")
    assert str(caught.value).startswith("weights w.pt must ")
    assert equal(model, SMALL)
    assert not os.path.exists("ran")


@pytest.mark.parametrize("kept", [0, 5, 0.5, 0.99])
def test_damaged_weights(tmp_path, kept):
    torch.save(SMALL.state_dict(), tmp_path / "w.pt")
    content = (tmp_path / "w.pt").read_bytes()
    size = int(kept * len(content)) if kept < 1 else kept
    (tmp_path / "w.pt").write_bytes(content[:size])
    words = "cut short" if size > 4 else "empty"  # of 5 bytes nobody can say
    words = "damaged|cut short" if size == 5 else words
    with pytest.raises(ValueError, match=rf"w\.pt must be a state_dict; the file is ({words})"):
        models.load_weights(SMALL, tmp_path / "w.pt")


def test_missing_weights(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nothing\.pt are not there"):
        models.load_weights(SMALL, tmp_path / "nothing.pt")
