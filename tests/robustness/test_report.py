"""The robustness report on networks whose distances are known."""

import math
import warnings

import pytest
import torch
from torch import nn

import jacfast
from jacfast.evaluation import accuracy, rho_adv
from jacfast.robustness import measure
from tests.nets import draw
from tests.robustness.reports import BUDGETS, by_hand, linear, shares


@pytest.mark.parametrize("p", [2, math.inf])
def test_linear_networks_are_as_robust_as_the_formula_says(p):
    model, x, y, far = linear(p)
    eps = [float(far[far > 0].quantile(q)) * 1.001 for q in (0.2, 0.5, 0.9)]
    found = jacfast.robustness_report(model, x, y, p=p, eps=eps, batch_size=13)
    assert found.accuracy == accuracy(model, x, y) == 0.75
    assert found.rho_adv == pytest.approx(rho_adv(model, x, p=p))
    assert torch.equal(found.right, far > 0)
    for name, ours in found.distances.items():
        if name == "PGD":
            continue
        tolerance = {"rtol": 0.021 if name == "DeepFool" else 2e-3, "atol": 0}
        torch.testing.assert_close(ours, far, **tolerance)
        assert bool((ours >= far * (1 - 1e-9)).all())
    for each in eps:
        assert found.robust_accuracy(each) <= shares(far / 1.002, each / 1.004)
        assert found.robust_accuracy(each) >= shares(far, each)
        # in the maximum norm PGD is exact, in the 2-norm it is within the ball
        got = found.robust_accuracy(each, "PGD")
        assert shares(far, each) <= got <= shares(far, each * (1 if p == math.inf else 0.9))
    assert found.robust_accuracy(0) == 0.75
    assert found.findings == ()


def test_the_worst_case_is_the_least_of_all():
    model, x, y, far = linear(2)
    found = jacfast.robustness_report(model, x, y, eps=(0.01, 0.05, 0.1), **BUDGETS)
    own = found.distances
    least = torch.stack([own[name] for name in ("DeepFool", "minimal norm", "PGD")]).amin(dim=0)
    assert torch.equal(own["worst case"], least)
    one = jacfast.pgd.result(model, x, y, eps=0.05, p=2, steps=200, random_start=False)
    lost = (one.success & (far > 0)) | (far == 0)
    assert found.robust_accuracy(0.05) <= float((~lost).double().mean()) + 1e-12


def test_the_same_call_is_the_same_report_and_a_generator_another():
    model, x, y, _ = linear(2, samples=8)
    torch.manual_seed(3)
    before = torch.get_rng_state()
    runs = [jacfast.robustness_report(model, x, y, **BUDGETS) for _ in range(2)]
    assert torch.equal(torch.get_rng_state(), before)
    assert runs[0].to_dict() == runs[1].to_dict()
    generator = torch.Generator().manual_seed(1)
    jacfast.robustness_report(model, x, y, generator=generator, **BUDGETS)
    assert not torch.equal(generator.get_state(), torch.Generator().manual_seed(1).get_state())


def test_sizes_that_are_not_given_are_those_of_the_images():
    model, x, y, _ = linear(math.inf, samples=8)
    for p in (2, math.inf):
        found = jacfast.robustness_report(model, x, y, p=p, **BUDGETS)
        size = float(x.norm(p, dim=1).median())
        assert found.choices.eps == tuple(float(f"{size * s:.2g}") for s in (0.01, 0.03, 0.1))


def test_further_arguments_go_along_with_their_samples():
    """Each sample has a bias of its own, which batches and PGD's left-overs must not mix up."""
    model, x, y, far = linear(2)
    own = draw(len(x), 3) * 100

    def moved(a, bias, back=None):
        return {"logits": model(a) + bias - back, "other": a}

    report = jacfast.robustness_report
    plain = report(model, x, y, batch_size=7, **BUDGETS)
    found = report(
        moved, x, y, args=(own,), kwargs={"back": own}, output="logits", batch_size=7, **BUDGETS
    )
    for name, ours in found.distances.items():
        torch.testing.assert_close(ours, plain.distances[name], rtol=1e-3, atol=1e-6)
    torch.testing.assert_close(found.distances["worst case"], far, rtol=2e-3, atol=0)


def test_the_model_is_left_as_it_was():
    model = nn.Sequential(nn.Linear(6, 8), nn.Dropout(0.5), nn.Linear(8, 3)).double().train()
    x = torch.rand(5, 6, dtype=torch.float64)
    y = model.eval()(x).argmax(dim=1)
    model.train()
    with pytest.warns(UserWarning, match="in training mode"):
        jacfast.robustness_report(model, x, y, **BUDGETS)
    assert all(module.training for module in model.modules())
    assert all(p.requires_grad and p.grad is None for p in model.parameters())


def test_a_box_of_each_channel_holds():
    model = nn.Sequential(nn.Flatten(), nn.Linear(8, 3)).double()
    x = torch.rand(12, 2, 2, 2, dtype=torch.float64) * torch.tensor([1.0, 200.0])[:, None, None]
    low, high = torch.zeros(2, 1, 1), torch.tensor([1.0, 200.0])[:, None, None]
    y = model(x).argmax(dim=1)
    found = jacfast.robustness_report(model, x, y, clip=(low, high), **BUDGETS)
    box = jacfast.minimal_norm.result(model, x, y, clip=(low, high), budget=40)
    far = found.distances["minimal norm"]
    torch.testing.assert_close(far[box.success], box.norm[box.success])
    assert "1 .. 200)" in str(found)


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"p": 3}, ValueError, "p must be one of 2, inf; got 3"),
        ({"eps": ()}, ValueError, "eps must hold one size at least"),
        ({"eps": 0.5}, TypeError, "eps must be a list of numbers; got float"),
        ({"eps": (0.0,)}, ValueError, "eps must be finite and > 0; got 0"),
        ({"budget": 4}, ValueError, "budget must be >= 5; got 4"),
        ({"steps": 0}, ValueError, "steps must be >= 1; got 0"),
        ({"restarts": 1.5}, TypeError, "restarts must be an integer"),
        ({"generator": 3}, TypeError, "generator must be a torch.Generator; got int"),
        ({"clip": (0.9, 1.0)}, ValueError, "x must lie in the box"),
        ({"batch_size": 0}, ValueError, "batch_size must be >= 1"),
    ],
)
def test_errors(options, error, words):
    model, x, y, _ = linear(2)
    with pytest.raises(error, match=words):
        jacfast.robustness_report(model, x, y, **options)


def test_a_model_that_gets_nothing_right():
    model, x, _y, _ = linear(2)
    wrong = (model(x).argmax(dim=1) + 1) % 3
    with pytest.raises(ValueError, match="model must classify one sample as its label at least"):
        jacfast.robustness_report(model, x, wrong)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda r: r.robust_accuracy(-1), "eps must be finite and >= 0; got -1"),
        (lambda r: r.robust_accuracy(0.1, "FGSM"), "attack must be one of DeepFool, minimal norm"),
    ],
)
def test_errors_of_the_result(call, words):
    with pytest.raises(ValueError, match=words):
        call(by_hand())


def test_half_precision():
    model, x, y, _ = linear(2)
    found = jacfast.robustness_report(model.half(), x.half(), y, eps=(0.02, 0.1), **BUDGETS)
    whole = jacfast.robustness_report(
        model.float(), x.half().float(), y, eps=(0.02, 0.1), **BUDGETS
    )
    for eps in (0.02, 0.1):
        assert found.robust_accuracy(eps) == pytest.approx(whole.robust_accuracy(eps), abs=0.08)


def test_grey_values_in_their_box_draw_no_warning():
    """rho_adv is taken without a box, and a DeepFool without one warns of whole numbers."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 3)).double()
    x = torch.randint(1, 256, (10, 3, 2, 2)).double()
    y = model(x).argmax(dim=1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = jacfast.robustness_report(model, x, y, clip=(0.0, 255.0), **BUDGETS)
    assert found.rho_adv == pytest.approx(rho_adv(model, x, clip=(-math.inf, math.inf)))
    small = jacfast.robustness_report(
        lambda a: model(255 * a), x / 255, y, eps=[e / 255 for e in found.choices.eps], **BUDGETS
    )
    far = found.distances["worst case"] / 255
    torch.testing.assert_close(small.distances["worst case"], far, rtol=0.02, atol=0)


def test_another_default_device(tmp_path):
    """A report is on the CPU, wherever new tensors are made: "meta" stands for a GPU here."""
    model, x, y, _ = linear(2, samples=8)
    found = jacfast.robustness_report(model, x, y, **BUDGETS)
    want = found.to_dict()
    torch.set_default_device("meta")
    try:
        assert found.to_dict() == want
        assert found.distances["PGD"].device.type == "cpu"
        found.save(tmp_path)
    finally:
        torch.set_default_device(None)


def test_sizes_come_once_and_in_order():
    model, x, y, _ = linear(2, samples=4)
    found = jacfast.robustness_report(model, x, y, eps=(0.5, 0.02, 0.5), **BUDGETS)
    assert found.choices.eps == (0.02, 0.5)


def test_no_attack_sees_all_samples_at_a_time():
    """Two classes of each sample may be looked at together."""
    model, x, y, _ = linear(2, samples=11)
    seen = []

    def counted(a):
        seen.append(len(a))
        return model(a)

    jacfast.robustness_report(counted, x, y, eps=(0.1,), batch_size=3, **BUDGETS)
    assert max(seen) <= 6


@pytest.mark.parametrize("progress", [False, True])
def test_progress_is_shown_when_asked_for(progress, monkeypatch):
    hidden = []

    def watch(parts, disable, **_):
        hidden.append(disable)
        return parts

    monkeypatch.setattr(measure, "watch", watch)
    model, x, y, _ = linear(2, samples=4)
    jacfast.robustness_report(model, x, y, eps=(0.1,), progress=progress, **BUDGETS)
    assert hidden == [not progress]


def test_sizes_are_shares_of_the_median_length_to_two_digits():
    x = torch.tensor([[1.0, 1.0], [2.0, 2.0], [0.0, 9.0]])
    assert measure.relative(x, math.inf, (0.01, 0.1)) == (0.02, 0.2)
    assert measure.relative(x, 2, (0.01, 0.1)) == (0.028, 0.28)
