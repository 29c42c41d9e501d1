"""Networks of every kind are hardened, each as it will be used."""

import copy
import dataclasses

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from jacfast import models
from jacfast.training.harden import harden
from tests.training.runs import small_run


def test_what_a_factory_draws_follows_from_the_seed(tmp_path, monkeypatch):
    class Noisy(nn.Linear):
        def __init__(self):
            super().__init__(784, 10)
            self.register_buffer("noise", torch.randn(784), persistent=False)

        def forward(self, x):
            return super().forward(x.flatten(1) + 0.01 * self.noise)

    made = []
    monkeypatch.setattr(models, "load_factory", lambda spec: made.append(Noisy()) or made[-1])
    torch.save(Noisy().state_dict(), tmp_path / "w.pt")
    run = small_run(tmp_path, model="a:b", weights=tmp_path / "w.pt", eval_samples=5)
    for name, seed in (("one", 1), ("two", 1), ("three", 2)):
        torch.rand(3)  # the caller's state differs each time
        state = torch.get_rng_state()
        harden(dataclasses.replace(run, out=tmp_path / name, seed=seed))
        assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(made[0].noise, made[1].noise)
    assert not torch.equal(made[0].noise, made[2].noise)


def test_batch_norm_stays_in_eval_mode(tmp_path, monkeypatch):
    net = nn.Sequential(
        nn.Flatten(), nn.Linear(784, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 10)
    )
    net[2].running_mean.fill_(0.01)
    torch.save(net.state_dict(), tmp_path / "w.pt")
    monkeypatch.setattr(models, "load_factory", lambda spec: copy.deepcopy(net))
    harden(small_run(tmp_path, model="a:b", weights=tmp_path / "w.pt", epochs=2))
    state = torch.load(tmp_path / "out" / "hardened.pt", weights_only=True)
    assert torch.equal(state["2.running_mean"], torch.full((8,), 0.01))
    assert not torch.equal(state["1.weight"], net[1].weight)


class Own(nn.Sequential):
    """A network of a user; the kinds below do in their own way what `forward` does here."""

    def __init__(self):
        super().__init__(nn.Flatten(), nn.Linear(784, 8), nn.Tanh(), nn.Linear(8, 10))


class Frozen(Own):
    def __init__(self):
        super().__init__()
        self[1].requires_grad_(False)


class Named(Own):
    def forward(self, x):
        return {"logits": super().forward(x), "images": x}


class InPlace(Own):
    def forward(self, x):
        return super().forward(x.sub_(0.5))


class Attention(Own):
    def forward(self, x):
        return super().forward(F.scaled_dot_product_attention(x, x, x))


class Extra(Own):
    def get_extra_state(self):
        return {"kind": "no tensor"}

    def set_extra_state(self, state):
        assert state == {"kind": "no tensor"}


@pytest.mark.parametrize("kind", [Frozen, Named, InPlace, Attention, Extra])
def test_every_kind_of_network_comes_to_its_figures(tmp_path, monkeypatch, kind):
    monkeypatch.setattr(models, "load_factory", lambda spec: kind())
    torch.save(kind().state_dict(), tmp_path / "w.pt")
    run = small_run(tmp_path, model="a:b", weights=tmp_path / "w.pt")
    figures = harden(run)
    assert "speedup" in figures["step"]
    assert harden(run, resume=True)["after"] == figures["after"]
    state = torch.load(run.out / "hardened.pt", weights_only=True)
    assert state.keys() == kind().state_dict().keys()


def test_a_network_with_dropout_is_measured_without_a_warning(tmp_path, monkeypatch, recwarn):
    """The networks are harden's own: it has no need to warn of the mode in which it measures."""
    net = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(784, 10))
    monkeypatch.setattr(models, "tf_tutorial_cnn", lambda: net)
    harden(small_run(tmp_path))
    assert not [str(one.message) for one in recwarn if "mode" in str(one.message)]
