"""A checkpoint of a network that did something else is refused, whatever its weights are."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from jacfast.training import fit
from jacfast.training.given import Tensors
from tests.step.writing import WRITING


def network(activation: nn.Module) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 9), activation, nn.Linear(9, 3))


def loss(model, x, y):
    return F.cross_entropy(model(x), y)


def train(model, path, x=None, y=None, epochs=1, **options):
    torch.manual_seed(1)
    images, labels = torch.randn(40, 6), torch.arange(40) % 3
    x, y = images if x is None else x, labels if y is None else y
    common = {"batch_size": 10, "lr": 0.01, "loss": loss, "save": path, "resume": True}
    fit(model, x, y, epochs=epochs, **common | options)


@pytest.mark.parametrize("activation", [nn.LeakyReLU(), nn.GELU(), nn.Hardtanh(0, 1)])
def test_another_activation_is_refused_and_the_model_left_as_it_was(tmp_path, activation):
    train(network(nn.ReLU()), tmp_path / "c.pt")
    other = network(activation)
    before, file = copy.deepcopy(other.state_dict()), (tmp_path / "c.pt").read_bytes()
    with pytest.raises(ValueError, match=r"c\.pt belongs to another run: the model's logits"):
        train(other, tmp_path / "c.pt", epochs=2)
    assert all(torch.equal(before[key], value) for key, value in other.state_dict().items())
    assert (tmp_path / "c.pt").read_bytes() == file
    train(network(nn.ReLU()), tmp_path / "c.pt", epochs=2)


def test_other_inputs_labels_modes_and_frozen_layers_are_refused(tmp_path):
    path = tmp_path / "c.pt"
    train(network(nn.ReLU()), path)
    frozen = network(nn.ReLU())
    frozen[0].requires_grad_(False)
    mixed = network(nn.ReLU())
    mixed[1].eval()
    for words, model, given in (
        ("the model's logits at the same inputs", network(nn.ReLU()), {"x": torch.randn(40, 6)}),
        ("y was", network(nn.ReLU()), {"y": (torch.arange(40) + 1) % 3}),
        ("mode was 'train' and is now 'eval'", network(nn.ReLU()).eval(), {}),
        ("mode was 'train' and is now 'some modules in each'", mixed, {}),
        ("frozen was '' and is now '0.weight, 0.bias'", frozen, {}),
    ):
        with pytest.raises(ValueError, match=f"belongs to another run: {words}"):
            train(model, path, epochs=2, **given)


def test_a_model_that_the_loss_calls_in_its_own_way_goes_on(tmp_path):
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = network(nn.ReLU())

        def forward(self, x, scale):
            return scale * self.net(x)

    def scaled(model, x, y):
        return F.cross_entropy(model(x, 2.0), y)

    x, y, path = torch.randn(40, 6), torch.arange(40) % 3, tmp_path / "c.pt"
    for epochs in (1, 2):
        fit(Two(), x, y, epochs=epochs, batch_size=10, lr=0.01, loss=scaled, save=path, resume=True)
    assert torch.load(path, weights_only=True)["epoch"] == 2


def test_a_model_that_returns_its_loss_goes_on(tmp_path):
    class Error(nn.Linear):
        def forward(self, x):
            return super().forward(x).square().mean()

    for epochs in (1, 2):
        train(Error(6, 3), tmp_path / "c.pt", epochs=epochs, loss=lambda model, x, y: model(x))
    assert torch.load(tmp_path / "c.pt", weights_only=True)["outputs"] is None


def test_a_resumed_model_is_looked_at_over_all_inputs():
    """At each third of 130: no more than 64 of them."""
    x = torch.arange(130)
    probe = Tensors(x, x, batch_size=10, order=torch.Generator()).probe
    assert probe.tolist() == list(range(0, 130, 3))


def test_two_trainings_of_one_checkpoint_are_refused(tmp_path):
    path = tmp_path / "c.pt"

    def again(model, x, y):
        train(network(nn.ReLU()), path)

    x, y = torch.randn(40, 6), torch.arange(40) % 3
    with pytest.raises(ValueError, match=r"save .*c\.pt is in use by another run, process"):
        fit(network(nn.ReLU()), x, y, epochs=1, batch_size=10, lr=0.01, loss=again, save=path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["momentum, assigned", "large momentum, in place", "first values"])
def test_a_look_at_what_a_model_does_moves_no_parameter(tmp_path, name):
    found = []
    for path in (None, tmp_path / "c.pt"):
        torch.manual_seed(0)
        model = WRITING[name]()
        options = {} if path is None else {"save": path}
        torch.manual_seed(1)
        x, y = torch.randn(40, 6), torch.arange(40) % 3
        fit(model, x, y, epochs=2, batch_size=10, lr=0.01, loss=loss, **options)
        found.append(model.state_dict())
    assert all(map(torch.equal, found[0].values(), found[1].values()))
    assert torch.load(tmp_path / "c.pt", weights_only=False)["outputs"] is not None
