"""The experiments of benchmarks/claims: what differs from the tables', and how it is printed."""

import dataclasses
from types import SimpleNamespace

import pytest
import torch

from benchmarks.claims import at, l1, smooth, table
from benchmarks.claims.smooth import small_cnn as cnn
from jacfast.attacks import deepfool, pgd
from jacfast.data import load_digits
from jacfast.evaluation import accuracy, rho_adv
from jacfast.penalties import InputGradient


@pytest.mark.parametrize("claim", [at, l1, smooth])
def test_every_choice_but_the_first_is_another(claim):
    assert len({*claim.CHOICES.values()}) == len(claim.CHOICES)
    assert len({*claim.runs()}) == len(claim.runs())


def test_networks_without_adversarial_training_are_shared():
    alone = [name for name, which in at.runs() if which == "alone"]
    assert alone[0] == "the table's"
    assert "made in every step" not in alone
    assert "twice the epochs" in alone


def test_what_is_printed():
    runs = {
        ("the table's", "alone", 0): {"rho": 20.0, "clean": 99.0},
        ("the table's", "alone", 1): {"rho": 22.0, "clean": 97.0},
        ("half of the images", "with AT", 0): {"rho": 21.0, "clean": 96.0},
        ("half of the images", "with AT", 1): {"rho": 21.5, "clean": 96.0},
        ("half of the images", "with AT", 2): {"rho": 90.0, "clean": 90.0},  # no pair
    }
    (row,) = table.at_lines(runs)[2:]
    said = (
        "| half of the images | 21.00 ± 1.41 | 21.25 ± 0.35 | +0.25 (+1.00, -0.50) | 98.0, 96.0 |"
    )
    assert row == said
    low, high = (f"{lam:g}" for lam in l1.WEIGHTS)
    runs = {
        ("all ten rows", low, 0): {"attacked": 10.0, "small": 1.0, "clean": 98.0},
        ("all ten rows", high, 0): {"attacked": 7.5, "small": 3.0, "clean": 97.0},
    }
    cells = "10.00 | 7.50 | -2.50 | 1.00 | 3.00 | +2.00 | 98.00 | 97.00 | -1.00"
    head, _, row = table.l1_lines(runs)
    assert row == f"| all ten rows | 1 | {cells} |"
    assert head.count("|") == row.count("|")


@pytest.fixture
def networks(monkeypatch):
    monkeypatch.setattr(at, "IMAGES", 60)
    torch.manual_seed(0)
    x, y = torch.rand(60, 1, 28, 28), torch.arange(60) % 10
    return at.Networks(SimpleNamespace(train_x=x, train_y=y, test_x=x, test_y=y), seed=0)


def test_images_made_once_against_the_base_or_the_penalised_network(networks, monkeypatch):
    targets = []

    def watched(model, *rest):
        targets.append(model)
        return networks.x

    monkeypatch.setattr(at, "attacked", watched)
    choice = dataclasses.replace(at.Choice(), epochs=1)
    networks.trained(choice, True)
    other = dataclasses.replace(choice, against="penalised")
    networks.trained(other, True)
    assert targets == [networks.base[0], networks.trained(choice, False)]


def test_a_share_of_the_images_is_moved_across_the_boundary(networks):
    model, (x, y) = networks.base[0], (networks.x, networks.y)
    moved = at.attacked(model, x, y, dataclasses.replace(at.Choice(), share=0.5))
    want = deepfool(model, x[:30], steps=5).adversarial
    torch.testing.assert_close(moved, torch.cat([want, x[30:]]))
    found = networks.measured("the table's", "alone")
    model = networks.trained(at.alone(at.CHOICES["the table's"]), False)
    assert found["rho"] == pytest.approx(100 * rho_adv(model, x))


def test_smooth_networks_are_measured_within_eps_of_the_maximum_norm(monkeypatch):
    monkeypatch.setattr(smooth, "IMAGES", 200)
    monkeypatch.setattr(smooth, "MEASURED", 20)
    split = load_digits()
    networks = smooth.Networks(split, seed=0)
    networks.epochs, kept = 1, []
    monkeypatch.setattr(smooth, "small_cnn", lambda kind: kept.append(cnn(kind)) or kept[-1])
    found = networks.measured("input gradient, 1 eps", "GELU")
    assert sum(isinstance(layer, torch.nn.GELU) for layer in kept[0]) == 3
    x, y = split.test_x[:20], split.test_y[:20]
    assert found["clean"] == 100 * accuracy(kept[0], split.test_x[:5000], split.test_y[:5000])
    moved = pgd(kept[0], x, y, eps=0.1, steps=20)
    assert found["robust"] <= min(found["pgd"], 100 * accuracy(kept[0], moved, y) + 5)
    assert found["pgd"] <= 100 * accuracy(kept[0], x, y)


def test_defences_of_smooth_networks():
    alone = smooth.defence(smooth.CHOICES["input gradient, 2 eps"], 0.1)
    assert (alone.penalty, alone.lam, alone.attack) == (InputGradient(norm=1), 0.2, None)
    attacked = smooth.defence(smooth.CHOICES["PGD training"], 0.1)
    x = torch.rand(4, 1, 28, 28)
    moved = attacked.attack(smooth.small_cnn(torch.nn.ReLU), x, torch.arange(4))
    assert 0.0999 < float((moved - x).abs().max()) < 0.1001
    assert smooth.defence(smooth.CHOICES["plain"], 0.1).penalty is None


def test_the_table_of_smooth_networks():
    run = {"clean": 98.0, "pgd": 80.0, "robust": 79.0, "training": 10.0}
    runs = {("plain", "GELU", seed): run | {"robust": 79.0 + seed} for seed in (0, 1)}
    head, _, row = table.smooth_lines(runs)
    assert row.count("|") == head.count("|")
    assert "| 98.0 ± 0.0 | 80.0 ± 0.0 | 79.5 ± 0.7 | 10.0 ± 0.0 |" in row
