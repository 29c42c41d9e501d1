"""A measure over batches is that of the whole, for any number of processes."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import jacfast
from jacfast.evaluation import accuracy, accuracy_curve, jacobian_norm, mean_over
from tests.nets import build

SIZES = [0.0, 0.05, 0.3]


@pytest.fixture(scope="module")
def problem():
    model, x = build("cnn", 11)
    y = model(x).argmax(dim=1)
    y[:3] = (y[:3] + 1) % 5
    return model.eval(), x, y


def curve(model, x, y):
    def attack(model, x, y, *, eps):
        return jacfast.fgsm(model, x, y, eps=eps, clip=None)

    return accuracy_curve(model, x, y, attack, SIZES)


@pytest.mark.parametrize("size", [1, 3])
@pytest.mark.parametrize("measure", [accuracy, curve, jacfast.rho_adv])
def test_the_mean_over_batches_is_the_measure_of_the_whole(problem, together, measure, size):
    model, x, y = problem
    want = measure(model, x, y)
    batches = list(zip(x.split(4), y.split(4), strict=True))
    found = together(size, lambda _: mean_over(measure, model, batches))
    assert all(each == found[0] for each in found)
    assert isinstance(found[0], type(want))
    assert found[0] == pytest.approx(want, rel=1e-6)


def test_a_loader_without_labels_and_options(problem):
    model, x, y = problem
    loader = DataLoader(TensorDataset(x, y), batch_size=5)
    norm = mean_over(jacobian_norm, model, loader, labels=False, batch_size=2)
    assert norm == pytest.approx(jacobian_norm(model, x), rel=1e-6)


def test_a_bar_is_drawn_where_it_has_a_label(problem, capsys, monkeypatch):
    monkeypatch.setattr("jacfast.progress.FIRST", 0)  # seconds to the first line
    model, x, y = problem
    for progress in ("a measure", None):
        mean_over(accuracy, model, [(x, y)], progress=progress)
        assert ("a measure" in capsys.readouterr().err) == (progress is not None)
        mean_over(accuracy, model, [(x, y)], progress=progress)
        assert bool(capsys.readouterr().err) == (progress is not None)


def test_batches_count_by_their_samples():
    x, y = torch.tensor([[2.0, 1], [2, 1], [2, 1], [1, 2]]), torch.zeros(4).long()
    batches = [(x[:3], y[:3]), (x[3:], y[3:])]
    assert mean_over(accuracy, nn.Identity(), batches) == 0.75


def test_a_sequence_of_one_number_stays_a_sequence(problem):
    model, x, y = problem
    found = mean_over(accuracy_curve, model, [(x, y)], attack=jacfast.fgsm, epsilons=[0.0])
    assert found == accuracy_curve(model, x, y, jacfast.fgsm, [0.0])


def test_other_weights_in_one_process_are_refused(problem, together):
    model, x, y = problem
    other = build("cnn", 11)[0].requires_grad_(False)
    other.get_parameter(next(iter(dict(other.named_parameters())))).mul_(2)
    found = together(2, lambda rank: mean_over(accuracy, (model, other)[rank], [(x, y)]))
    assert all("model is" in str(error) and "in the first one" in str(error) for error in found)


@pytest.mark.parametrize("name", ["measure", "labels"])
def test_other_arguments_in_one_process_are_refused(problem, together, name):
    model, x, y = problem

    def zero(model, x, *labels):
        return 0.0

    def work(rank):
        measure = (zero, accuracy)[rank] if name == "measure" else zero
        return mean_over(measure, model, [(x, y)], labels=name == "measure" or rank == 0)

    found = together(2, work)
    assert all(f"{name} is" in str(error) and "in the first one" in str(error) for error in found)


@pytest.mark.parametrize(
    ("batches", "options", "error", "words"),
    [
        ([], {}, ValueError, "batches must yield at least one batch"),
        ([torch.ones(2, 3)], {}, ValueError, "needs batches of"),
        ([(torch.ones(2, 3), torch.zeros(2).long())], {"over": "correct"}, ValueError, "over must"),
        ([(torch.ones(2, 3), torch.zeros(2).long())], {"over": "success"}, ValueError, "over must"),
    ],
)
def test_errors(batches, options, error, words):
    with pytest.raises(error, match=words):
        mean_over(accuracy, nn.Identity(), batches, **options)


@pytest.mark.parametrize(
    ("measure", "got"),
    [
        (jacfast.distance_bounds, "got Bounds of distance_bounds"),
        (jacfast.deepfool, "got DeepFoolResult of deepfool"),
        (lambda model, x: model(x), "got Tensor"),
        (lambda model, x: model(x).detach().numpy(), "got ndarray"),
        (lambda model, x: None, "got NoneType"),
        (lambda model, x: {"mean": 1.0}, "got dict"),
        (lambda model, x: "many", "got str"),
        (lambda model, x: [0.5, None], "got list"),
        (lambda model, x: 1j, "got complex"),
    ],
)
def test_a_measure_that_returns_no_numbers(problem, measure, got):
    model, x, _ = problem
    with pytest.raises(TypeError, match=f"measure must return a number, or a sequence .*; {got}"):
        mean_over(measure, model, [x], labels=False)


def test_a_measure_of_numbers_that_are_not_as_many_each_time():
    batches = [torch.ones(3, 2), torch.ones(1, 2)]
    with pytest.raises(ValueError, match=r"measure must return as many numbers .*; got \[1, 3\]"):
        mean_over(lambda model, x: x[:, 0].tolist(), nn.Identity(), batches, labels=False)


@pytest.mark.parametrize("kind", [torch.tensor, np.float32, np.array, int])
def test_numbers_of_other_kinds(kind):
    batches = [torch.ones(3, 2), torch.ones(1, 2)]
    assert mean_over(lambda model, x: kind(2), nn.Identity(), batches, labels=False) == 2.0
    several = mean_over(
        lambda model, x: (kind(2), kind(len(x))), nn.Identity(), batches, labels=False
    )
    assert several == [2.0, 2.5]
