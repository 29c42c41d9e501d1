"""The sweep of other people's architectures: what is right passes, what is wrong is named."""

import json

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import jacfast
from benchmarks.zoo import checks, oracle, report
from benchmarks.zoo.architectures import FEW, architectures
from benchmarks.zoo.differences import against_differences
from benchmarks.zoo.nets import channels_last, stirred, widened

VERSIONS = dict.fromkeys(("torchvision", "timm", "transformers"), "0")


@pytest.fixture
def bert():
    return next(a for a in architectures() if a.name == "transformers/bert")


def test_there_are_many_and_the_few_are_among_them():
    names = [architecture.name for architecture in architectures()]
    assert len(set(names)) == len(names) >= 150
    assert set(FEW) <= set(names)
    assert len(set(FEW)) == 20


def test_a_network_that_is_right_passes(bert):
    entry = checks.swept(bert)
    assert entry["failures"] == {}
    assert max(entry["differences"]) < 1e-6
    assert len(entry["errors"]) == 13
    page = report.page(report.figures([entry], VERSIONS))
    assert "1 of 1 architectures pass" in page
    assert "Nothing." in page


def test_what_is_wrong_is_found_and_named(bert, monkeypatch):
    right = jacfast.frobenius_penalty
    monkeypatch.setattr(jacfast, "frobenius_penalty", lambda *a: right(*a) * (1 + 1e-6))
    entry = checks.swept(bert)
    assert set(entry["failures"]) == {f"one line, float64, N = {n}" for n in (1, 2)}
    found = report.figures([entry], VERSIONS)
    assert json.loads(report.compact(found))["architectures"][bert.name]["failures"]
    assert "| transformers/bert | one line, float64, N = 2; one line" in report.page(found)


def test_a_page_has_the_worst_of_each_kind_and_counts_what_passes():
    errors = {"one line, float64, N = 1": 1e-9, "frozen": 2e-7, "one line, float32, N = 1": 1e-2}
    entries = [
        {"name": "a", "kind": "k", "errors": errors, "failures": {}, "multiple": 0.25},
        {"name": "b", "kind": "k", "errors": {}, "failures": {"made": "a | b"}},
        {"name": "c", "kind": "other", "errors": {"rows": 3e-8}, "failures": {}, "multiple": 0.5},
    ]
    found = report.figures(entries, VERSIONS)
    assert [of["float64"] for of in found["architectures"].values()] == [2e-7, None, 3e-8]
    assert json.loads(report.compact(found)) == json.loads(json.dumps(found))
    page = report.page(found)
    listed = sum(1 for _ in architectures())
    assert "2 of 3 architectures pass every check" in page
    assert f"The list has {listed}: {listed - 3} of them have not been tried yet." in page
    assert "| k | 2 | 1 | 2e-07 | 0.25 |\n| other | 1 | 1 | 3e-08 | 0.50 |" in page
    assert "| b | made | a \\| b |" in page


def test_what_is_not_a_number_is_found(bert, monkeypatch):
    right = oracle.differentiated

    def wrong(*args):
        return [
            truth._replace(of_penalty=[g * float("nan") for g in truth.of_penalty])
            for truth in right(*args)
        ]

    monkeypatch.setattr(checks, "differentiated", wrong)
    found = set(checks.swept(bert)["failures"])
    assert {"truth", *(f"one line, float{b}, N = {n}" for b in (32, 64) for n in (1, 2))} <= found


def test_the_truth_has_a_derivative_where_a_vector_that_is_normalised_is_zero():
    model, x, y = crowded()
    whole = Zeros(model[0], model[-1]).double()
    (truth,) = oracle.differentiated(whole, x, y, (2,))
    assert max(against_differences(whole, x, y, truth, truth.weight())) < 1e-6
    assert checks.gradient(checks.one_line, whole, x, y, truth, truth.weight()) < 1e-12


class Zeros(nn.Module):
    """Normalises what is zero whatever x is, beside what is not, as padded attention does."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.first, self.last = layers

    def forward(self, x):
        return self.last(
            sum(F.normalize(part, dim=-1) for part in (self.first(x), 0 * x.repeat(1, 2)[:, :8]))
        )


def crowded():
    """Return a network in float64, and an x from which one kink is 3e-8 away and one 3e-9."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 3))
    model, x = model.double(), torch.randn(2, 6, dtype=torch.float64)
    first = model[0]
    with torch.no_grad():
        ahead = torch.tensor([3e-8, 3e-9], dtype=torch.float64)
        first.bias[:2] += ahead - first(x)[0, :2]
    return model, x, torch.tensor([0, 2])


def test_finite_differences_find_a_step_between_the_kinks():
    model, x, y = crowded()
    (truth,) = oracle.differentiated(model, x, y, (2,))
    assert max(against_differences(model, x, y, truth, truth.weight())) < 1e-6


@pytest.mark.parametrize("part", ["of_loss", "of_penalty"])
def test_finite_differences_see_a_wrong_gradient(part):
    model, x, y = crowded()
    (truth,) = oracle.differentiated(model, x, y, (2,))
    wrong = truth._replace(**{part: [g * (1 + 1e-3) for g in getattr(truth, part)]})
    right, off = against_differences(model, x, y, wrong, truth.weight())
    assert right < 1e-6 < checks.DIFFERENCES < off


def test_finite_differences_see_a_wrong_jacobian():
    model, x, y = crowded()
    (truth,) = oracle.differentiated(model, x, y, (2,))
    wrong = truth._replace(rows=truth.rows * (1 + 1e-3))
    off, right = against_differences(model, x, y, wrong, truth.weight())
    assert right < 1e-6 < checks.DIFFERENCES < off


def test_a_loss_that_is_saturated_gets_other_classes():
    model, x, y = crowded()
    assert oracle.unsaturated(model, x, y) is y
    with torch.no_grad():
        model[-1].weight *= 1e3
    sure = model(x).argmax(1)
    y = oracle.unsaturated(model, x, sure)
    (truth,) = oracle.differentiated(model, x, y, (2,))
    assert truth.weight() > 1e-9
    assert max(against_differences(model, x, y, truth, truth.weight())) < checks.DIFFERENCES


def test_in_training_mode_loss_and_penalty_weigh_the_same(monkeypatch):
    """Behind ten batch-norms the loss has another gradient than in eval mode, and the penalty's
    must not be lost beside it."""
    torch.manual_seed(0)
    layers = [m for _ in range(10) for m in (nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4), nn.ReLU())]
    model = nn.Sequential(*layers, nn.Flatten(), nn.Linear(16, 3)).double()
    model = stirred(model, torch.randn(8, 4, 2, 2, dtype=torch.float64)).eval()
    x, y = torch.randn(2, 4, 2, 2, dtype=torch.float64), torch.tensor([0, 2])
    assert checks.frozen(model, x, y) < 1e-12
    right = jacfast.forward_with_penalty

    def wrong(*args, **options):
        logits, penalty = right(*args, **options)
        return logits, penalty * (1 + 5e-8)

    monkeypatch.setattr(jacfast, "forward_with_penalty", wrong)
    assert checks.frozen(model, x, y) > checks.FLOAT64


class Narrow(nn.Module):
    """A layer that computes in float32, whatever its dtype."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(6, 3)

    def forward(self, x):
        return self.layer(x.float().tanh().to(x.dtype))


def test_float64_is_float64_throughout():
    model, x = Narrow(), torch.rand(4, 6)
    wide = widened(model, x)
    want = x.double().tanh() @ model.layer.weight.double().T + model.layer.bias.double()
    torch.testing.assert_close(wide(x.double()), want, rtol=1e-14, atol=0)
    assert model.layer.weight.dtype == torch.float32


def test_channels_last_leaves_weights_of_3d_convolutions():
    model = channels_last(nn.Sequential(nn.Conv3d(2, 2, 2), nn.Conv2d(3, 4, 2)))
    assert model[0].weight.is_contiguous()
    assert model[1].weight.is_contiguous(memory_format=torch.channels_last)
