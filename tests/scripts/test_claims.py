"""The experiments of benchmarks/claims: what differs from the tables', and how it is printed."""

import copy
import dataclasses
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

from benchmarks.claims import at, l1, smooth, table
from benchmarks.claims.smooth import small_cnn as cnn
from jacfast.attacks import bim, deepfool, fgsm, pgd
from jacfast.data import load_digits
from jacfast.evaluation import accuracy, rho_adv
from jacfast.penalties import ColumnSumL1, EntrywiseL1, InputGradient


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


@pytest.mark.parametrize("kept", [False, True])
def test_adam_goes_on_from_its_state_where_that_is_kept(networks, monkeypatch, kept):
    _, state = networks.base
    begun = []

    def watched(_model, *, optimizer, **_options):
        begun.append(copy.deepcopy(optimizer.state_dict()["state"]))

    monkeypatch.setattr(at, "fit", watched)
    networks.trained(at.Choice(kept=kept), False)
    (found,) = begun
    assert len(found) == (6 if kept else 0)  # three layers' weights and biases
    for i, of in found.items():
        assert torch.equal(of["exp_avg"], state["state"][i]["exp_avg"])


@pytest.mark.parametrize("name", l1.CHOICES)
def test_the_loss_of_the_1_norm_is_that_of_its_choice(name):
    choice, penalties = l1.CHOICES[name], {"entries": EntrywiseL1, "columns": ColumnSumL1}
    given = {"n": choice.rows} if choice.sums == "entries" else {}
    model = torch.nn.Sequential(torch.nn.Linear(6, 9), torch.nn.Tanh(), torch.nn.Linear(9, 10))
    x, y = torch.rand(4, 6), torch.arange(4)
    torch.manual_seed(3)
    found = l1._loss(choice, 0.7)(model, x.clone(), y)
    torch.manual_seed(3)
    logits = model(x.requires_grad_())
    of = logits.softmax(dim=1) if "probabilities" in name else logits
    want = F.cross_entropy(logits, y, label_smoothing=0.0 if "no label" in name else 0.1)
    torch.testing.assert_close(found, want + 0.7 * penalties[choice.sums](**given)(of, x))


def test_the_1_norm_is_measured_under_one_large_step_and_ten_small_ones(monkeypatch):
    digits, kept, lams = load_digits(), [], []
    some = {name: getattr(digits, name)[:200] for name in ("train_x", "train_y")}
    some |= {name: getattr(digits, name)[:100] for name in ("test_x", "test_y")}
    split, make, loss = SimpleNamespace(**some), l1.models.seck_c, l1._loss
    monkeypatch.setitem(l1.CHOICES, "the table's", l1.Choice(epochs=3))
    monkeypatch.setattr(l1.models, "seck_c", lambda: kept.append(make()) or kept[-1])
    monkeypatch.setattr(l1, "_loss", lambda choice, lam: lams.append(lam) or loss(choice, lam))
    found = l1.Networks(split, seed=0).measured("the table's", "50")
    assert lams == [50 / 7840]
    x, y = split.test_x, split.test_y
    moved = [x, fgsm(kept[0], x, y, eps=0.3), bim(kept[0], x, y, eps=0.1, step_size=0.025)]
    want = [100 * accuracy(kept[0], images, y) for images in moved]
    assert [found[name] for name in ("clean", "attacked", "small")] == want
    assert len({*want}) == 3


def test_the_median_distance_counts_wrong_images_as_near():
    right = torch.tensor([True, False, True, False, False])
    assert smooth.median(torch.arange(1.0, 6.0), right) == 0
    assert smooth.median(torch.arange(1.0, 6.0), ~right) == 2


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
