"""The papers' networks by their published sizes."""

import pytest
import torch
from torch import nn

from jacfast import models
from tests.nets import draw


@pytest.mark.parametrize(
    ("name", "shape", "parameters"),
    [
        ("tf_tutorial_cnn", (1, 28, 28), 3_274_634),
        ("cifar_cnn", (3, 32, 32), 716_074),
        ("fc500", (1, 28, 28), 469_160),
        ("deep_defense_mlp", (1, 28, 28), 79_510),
        ("seck_a", (1, 28, 28), 710_218),
        ("seck_b", (1, 28, 28), 1_460_938),
        ("seck_c", (1, 28, 28), 567_434),
        ("yu_cifar_cnn", (3, 32, 32), 279_050),
    ],
)
def test_sizes_and_logits(name, shape, parameters):
    make = getattr(models, name)
    model = make()
    assert sum(p.numel() for p in model.parameters()) == parameters
    assert f"{parameters:,} parameters" in make.__doc__
    assert model(draw(2, *shape, dtype=torch.float32)).shape == (2, 10)


def kinds(model: nn.Sequential) -> str:
    """Return the layers' initials: Conv, Relu, Maxpool, Dropout, Flatten, Linear."""
    return "".join(type(layer).__name__[0] for layer in model)


def test_layers_come_in_the_order_of_the_papers():
    assert kinds(models.tf_tutorial_cnn()) == "CRM" + "CRM" + "FLRDL"
    assert kinds(models.cifar_cnn()) == "CRCRMD" * 4 + "FLRL"
    assert kinds(models.seck_a()) == "CRCRCR" + "FL"
    assert kinds(models.seck_b()) == "CRCR" + "FLRL"
    assert kinds(models.seck_c()) == "F" + "LR" * 3 + "L"


@pytest.mark.parametrize(
    ("name", "layers"), [("tf_tutorial_cnn_orthonormal", 1), ("tf_tutorial_cnn_orthonormal_2", 2)]
)
def test_fixed_layers_are_orthonormal(name, layers):
    """With W's rows orthonormal, ||W J|| <= ||J|| (Jakubovitz & Giryes, proposition 4)."""
    model = getattr(models, name)()
    linear = [layer for layer in model if isinstance(layer, nn.Linear)]
    for layer in linear[-layers:]:
        rows = layer.weight.double()
        assert not layer.weight.requires_grad
        assert layer.bias.requires_grad
        torch.testing.assert_close(rows @ rows.T, torch.eye(len(rows)).double(), atol=1e-5, rtol=0)
    assert sum(not parameter.requires_grad for parameter in model.parameters()) == layers


def test_dropout_keeps_what_the_papers_keep():
    def rates(model: nn.Sequential) -> set[float]:
        return {layer.p for layer in model if isinstance(layer, nn.Dropout)}

    assert rates(models.tf_tutorial_cnn()) == {0.5}  # keep 0.5
    assert rates(models.cifar_cnn()) == {0.25}  # keep 0.75


def test_cifar_cnn_of_100_classes():
    model = models.cifar_cnn(100)
    assert sum(p.numel() for p in model.parameters()) == 739_204
    assert model(draw(2, 3, 32, 32, dtype=torch.float32)).shape == (2, 100)


def test_widths_and_classes_are_checked():
    for widths in ((), (784,)):
        with pytest.raises(ValueError, match=r"widths must be two sizes or more; got"):
            models.mlp(*widths)
    with pytest.raises(ValueError, match=r"widths must be >= 1; got 0"):
        models.mlp(784, 0, 10)
    with pytest.raises(ValueError, match=r"classes must be >= 2; got 1"):
        models.cifar_cnn(1)


def test_deep_defense_weights_are_from_a_cut_normal():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = models.deep_defense_mlp()
    weight = model[1].weight.detach()
    assert 0.0195 < float(weight.abs().max()) <= 0.02
    # A unit normal cut at 2 has sd 0.8796. 78,400 draws: 2% is 11 standard errors.
    assert float(weight.std()) == pytest.approx(0.008796, rel=0.02)
    assert not model[1].bias.any()
