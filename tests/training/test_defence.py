"""The loss of a defence, against the same written by hand."""

import copy
import functools
import types
import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import jacfast
from jacfast.training import Defence, fit
from tests.nets import RTOL, cnn, draw, relative_error

LAM = 0.3


def batch():
    return draw(6, 2, 8, 8), torch.tensor([0, 1, 2, 3, 4, 0])


class Holds(nn.Module):
    """A model that returns its logits in something else."""

    def __init__(self, model, returns):
        super().__init__()
        self.model, self.returns = model, returns

    def forward(self, x):
        return self.returns(self.model(x))


def shift(model, x, y):
    """An attack that depends on model and labels, so that both must be the right ones."""
    with torch.no_grad():
        return x + 0.1 * y.view(-1, 1, 1, 1) + model(x).std()


def by_hand(model, x, y, points, classes, samples, labels, smoothing=0.0):
    """CE of the samples, and exactly the mean squared norm at the points."""
    loss = F.cross_entropy(model(samples), labels, label_smoothing=smoothing)
    leaf = points.clone().requires_grad_()
    penalty = jacfast.input_gradient_penalty(model(leaf), leaf, classes)
    return loss + LAM * penalty


def compare(got, want, model):
    parameters = list(model.parameters())
    ours, theirs = (torch.autograd.grad(loss, parameters) for loss in (got, want))
    assert relative_error(got, want) < RTOL[torch.float64]
    for a, b in zip(ours, theirs, strict=True):
        assert relative_error(a, b) < RTOL[torch.float64]


@pytest.mark.parametrize("penalise", ["clean", "attacked", "both"])
@pytest.mark.parametrize("twins", [True, False])
@pytest.mark.parametrize(("share", "count"), [(1.0, 6), (0.5, 3), (0.01, 1)])
def test_every_choice(penalise, twins, share, count):
    model, (x, y) = cnn().double(), batch()
    moved, first = shift(model, x[:count], y[:count]), 0 if twins else count
    samples, labels = torch.cat([x[first:], moved]), torch.cat([y[first:], y[:count]])
    points = {"clean": x, "attacked": moved, "both": torch.cat([x, moved])}[penalise]
    classes = {"clean": y, "attacked": y[:count], "both": torch.cat([y, y[:count]])}[penalise]
    want = by_hand(model, x, y, points, classes, samples, labels, smoothing=0.1)
    defence = Defence(jacfast.InputGradient(), LAM, shift, share, twins, penalise, smoothing=0.1)
    compare(defence(model, x, y), want, model)


def test_without_an_attack_and_without_a_penalty():
    model, (x, y) = cnn().double(), batch()
    want = by_hand(model, x, y, x, y, x, y)
    compare(Defence(jacfast.InputGradient(), LAM)(model, x, y), want, model)
    compare(Defence()(model, x, y), F.cross_entropy(model(x), y), model)
    moved = shift(model, x, y)
    compare(Defence(attack=shift)(model, x, y), F.cross_entropy(model(moved), y), model)


def test_the_root_of_a_penalty():
    """Which is refused of a part of a batch: this is all of it."""
    model, (x, y) = cnn().double(), batch()
    leaf = x.clone().requires_grad_()
    z = model(leaf)
    rows = [torch.autograd.grad(z[:, k].sum(), leaf, create_graph=True)[0] for k in range(5)]
    want = F.cross_entropy(model(x), y) + LAM * sum(row.square().sum() for row in rows).sqrt()
    defence = Defence(jacfast.Frobenius("exact", root=True), LAM)
    compare(defence(model, x, y), want, model)


def test_an_inner_layer():
    model, (x, y) = cnn().double(), batch()
    leaf = x.clone().requires_grad_()
    inner = model[:3](leaf).flatten(1)
    norm = sum(
        torch.autograd.grad(inner[:, k].sum(), leaf, create_graph=True)[0].square().sum()
        for k in range(inner.shape[1])
    )
    want = F.cross_entropy(model(x), y) + LAM * norm / len(x)
    defence = Defence(jacfast.Frobenius("exact"), LAM, layer="2")
    compare(defence(model, x, y), want, model)


@pytest.mark.parametrize(
    ("share", "twins", "samples"), [(1.0, False, 6), (0.5, False, 6), (0.5, True, 9)]
)
def test_adversarial_training_is_one_forward_pass_of_what_counts(share, twins, samples):
    """Also with batch-norm in training mode: nothing is refused without a penalty."""
    x, y = batch()
    torch.manual_seed(0)
    layers = [nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 5)]
    model = nn.Sequential(*layers).double()
    twin, seen, count = copy.deepcopy(model), [], round(6 * share)
    first = 0 if twins else count
    want = F.cross_entropy(
        twin(torch.cat([x[first:], x[:count] + 0.1])), torch.cat([y[first:], y[:count]])
    )
    model.register_forward_hook(lambda _, given, out: seen.append(len(given[0])))
    got = Defence(attack=lambda _, x, y: x + 0.1, share=share, twins=twins)(model, x, y)
    assert seen == [samples]
    ours = torch.autograd.grad(got, list(model.parameters()))
    theirs = torch.autograd.grad(want, list(twin.parameters()))
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))
    assert torch.equal(model[1].running_mean, twin[1].running_mean)


def test_a_penalty_of_a_network_with_batch_norm():
    x, y = batch()
    layers = [nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 5)]
    model = nn.Sequential(*layers).double()
    penalty = jacfast.Frobenius("exact")
    with pytest.raises(RuntimeError, match="batch_norm must be 'frozen' or 'coupled'"):
        Defence(penalty, LAM)(model, x, y)
    twin = copy.deepcopy(model)
    got = Defence(penalty, LAM, batch_norm="frozen")(model, x, y)
    logits = twin(x)
    twin.eval()  # the penalty by running statistics
    leaf = x.clone().requires_grad_()
    want = F.cross_entropy(logits, y) + LAM * penalty(twin(leaf), leaf)
    torch.testing.assert_close(got, want)
    ours = torch.autograd.grad(got, list(model.parameters()))
    theirs = torch.autograd.grad(want, list(twin.parameters()))
    torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("penalise", ["clean", "attacked", "both"])
def test_a_penalty_costs_no_forward_pass_of_samples_that_do_not_count(penalise):
    seen, (x, y) = [], batch()
    model = cnn().double()
    model.register_forward_hook(lambda _, given, out: seen.append(len(given[0])))
    defence = Defence(jacfast.InputGradient(), LAM, lambda _, x, y: x + 0.1, penalise=penalise)
    defence(model, x, y)
    assert seen == {"clean": [6, 6], "attacked": [6], "both": [12]}[penalise]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"lam": -1.0}, "lam must be finite and >= 0; got -1.0"),
        ({"lam": float("nan")}, "lam must be finite and >= 0; got nan"),
        ({"lam": "1"}, "lam must be a number; got str"),
        ({"lam": 1.0}, "lam needs a penalty to weigh; got 1.0 and penalty=None"),
        ({"penalty": jacfast.Frobenius()}, "lam must be > 0 with a penalty; got 0.0"),
        ({"penalty": 0.1, "lam": 1.0}, "penalty must be a jacfast Penalty, .*; got float"),
        (
            {"penalty": jacfast.InputGradient(reduction="none"), "lam": 1.0},
            "penalty must have reduction='mean' to be added to a loss .*; got 'none'",
        ),
        ({"attack": "fgsm"}, r"attack must be a function of \(model, x, y\); got 'fgsm'"),
        ({"attack": shift, "share": 0.0}, r"share must be in \(0, 1\]; got 0.0"),
        ({"attack": shift, "share": 1.5}, r"share must be in \(0, 1\]; got 1.5"),
        ({"attack": shift, "share": "all"}, "share must be a number; got str"),
        ({"share": 0.5}, "share=0.5 needs attack; got attack=None"),
        ({"twins": True}, "twins=True needs attack; got attack=None"),
        ({"penalise": "both"}, "penalise='both' needs attack; got attack=None"),
        ({"layer": 2}, "layer must be the name of a submodule; got 2"),
        ({"layer": "2"}, "layer='2' needs penalty; got penalty=None"),
        ({"batch_norm": "frozen"}, "batch_norm='frozen' needs penalty; got penalty=None"),
        ({"penalise": "there"}, "penalise must be one of clean, attacked, both; got 'there'"),
        ({"smoothing": 1.0}, r"smoothing must be in \[0, 1\); got 1.0"),
        ({"smoothing": "much"}, "smoothing must be a number; got str"),
    ],
)
def test_errors(arguments, message):
    with pytest.raises((TypeError, ValueError), match=f"^{message}$"):
        Defence(**arguments)


@pytest.mark.parametrize(
    "returns",
    [
        lambda z: {"loss": None, "logits": z},
        lambda z: (z, None),
        lambda z: types.SimpleNamespace(logits=z),
        lambda z: z[:, :, None, None],
    ],
)
@pytest.mark.parametrize(
    "defence",
    [
        Defence(),
        Defence(jacfast.InputGradient(), LAM),
        Defence(attack=jacfast.deepfool),
        Defence(jacfast.InputGradient(), LAM, jacfast.deepfool, 0.5, penalise="attacked"),
        Defence(jacfast.InputGradient(), LAM, jacfast.deepfool, twins=True, penalise="both"),
    ],
)
def test_whatever_holds_the_logits(defence, returns):
    """As the penalty alone, and attacks, find them."""
    model, (x, y) = cnn().double(), batch()
    compare(defence(Holds(model, returns), x, y), defence(model, x, y), model)


@pytest.mark.parametrize("penalty", [None, jacfast.Frobenius()])
def test_no_pair(penalty):
    """Its own penalty would be in no loss: a training without one, that says nothing of it."""
    pair = jacfast.WithPenalty(cnn().double())
    with pytest.raises(TypeError, match="model must not be a WithPenalty, whose penalty would be"):
        Defence(penalty, LAM if penalty else 0.0)(pair, *batch())


@pytest.mark.parametrize("penalty", [None, jacfast.Frobenius()])
def test_no_loss_of_a_dense_output(penalty):
    model, (x, y) = nn.Conv2d(2, 5, 3).double(), batch()
    with pytest.raises(ValueError, match=r"one row of logits per sample.*got a dense output"):
        Defence(penalty, LAM if penalty else 0.0)(model, x, y)


def test_no_cross_entropy_of_a_single_logit():
    """It is 0, whatever the logit."""
    model, (x, y) = nn.Sequential(nn.Flatten(), nn.Linear(128, 1)).double(), batch()
    with pytest.raises(ValueError, match=r"at least 2 logits per sample; got 1\. Of a single"):
        Defence()(model, x, torch.zeros_like(y))


@pytest.mark.parametrize(
    ("y", "message"),
    [
        (torch.tensor([0, 1, 2, 3, 4, 5]), "y must lie in 0 .. K - 1 = 4; got 0 .. 5"),
        (torch.tensor([0, 1, 2, 3, -1, 0]), "y must lie in 0 .. K - 1 = 4; got -1 .. 3"),
        (torch.arange(5), r"y must have shape \[N\] = \[6\]; got \[5\]"),
        (torch.rand(6), "y must be an int64 tensor of labels; got torch.float32"),
    ],
)
def test_labels(y, message):
    model, (x, _) = cnn().double(), batch()
    for defence in (
        Defence(),
        Defence(jacfast.Frobenius(), LAM),
        Defence(attack=lambda m, x, y: x),
    ):
        with pytest.raises((TypeError, ValueError), match=message):
            defence(model, x, y)


def test_deepfool_as_it_is():
    """Away from the labels: a sample that is misclassified stays."""
    model, (x, y) = cnn().double(), batch()
    moved = jacfast.deepfool(model, x[:3], y[:3]).adversarial
    want = F.cross_entropy(model(torch.cat([x[3:], moved])), torch.cat([y[3:], y[:3]]))
    compare(Defence(attack=jacfast.deepfool, share=0.5)(model, x, y), want, model)


def test_fit_takes_it_and_it_defends():
    """On two classes that are far apart, FGSM succeeds less after adversarial training."""
    torch.manual_seed(0)
    y = torch.arange(200) % 2
    x = torch.rand(200, 20) * 0.6 + 0.2 * y[:, None]
    x[:, 10:] = 0.5 + 0.05 * (2 * y[:, None] - 1)  # exact, and gone with a small change

    def attack(model, x, y):
        return jacfast.fgsm(model, x, y, eps=0.08)

    accuracies = []
    for defence in (Defence(), Defence(attack=attack, twins=True)):
        torch.manual_seed(1)
        model = torch.nn.Linear(20, 2)
        fit(model, x, y, epochs=30, batch_size=50, lr=0.03, loss=defence)
        labels = model(attack(model, x, y)).argmax(1)
        accuracies.append(float((labels == y).double().mean()))
    assert accuracies[1] > accuracies[0] + 0.1


@pytest.mark.parametrize("name", ["deepfool", "fgsm"])
def test_training_mode_is_no_surprise_in_a_step(name):
    """It is there for the step: no warning in each of them; the attack is on eval mode."""
    model = nn.Sequential(
        nn.Flatten(), nn.Linear(128, 9), nn.Dropout(0.5), nn.Linear(9, 5)
    ).double()
    x, y = batch()
    attack = {
        "deepfool": jacfast.deepfool,
        "fgsm": functools.partial(jacfast.fgsm, eps=0.1, clip=None),
    }[name]
    attacked = []

    def listening(model, x, y):
        attacked.append(attack(model, x, y))
        return attacked[-1]

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        Defence(attack=listening)(model, x, y)
    assert not any("training mode" in str(one.message) for one in caught)
    assert all(module.training for module in model.modules())
    with pytest.warns(UserWarning, match="evaluated in eval mode"):
        attack(model, x, y)
    want, got = attack(model.eval(), x, y), attacked[0]
    if name == "deepfool":
        want, got = want.adversarial, got.adversarial
    assert torch.equal(got, want)


@pytest.mark.parametrize("penalise", ["clean", "attacked", "both"])
def test_a_penalty_in_every_other_step_wherever_it_is(penalise):
    model, (x, y) = cnn().double(), batch()
    options = {"attack": lambda model, x, y: x + 1, "penalise": penalise}
    every, always = (jacfast.Frobenius("exact", every=steps) for steps in (2, 1))
    bare = Defence(**options)(model, x, y)
    twice, none = (Defence(every, 0.1, **options)(model, x, y, step=step) for step in (4, 5))
    torch.testing.assert_close(none, bare)
    torch.testing.assert_close(
        twice - bare, 2 * (Defence(always, 0.1, **options)(model, x, y) - bare)
    )
