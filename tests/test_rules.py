"""Counts, numbers and choices are checked by the same rules wherever they are arguments."""

import numpy as np
import pytest
import torch
from torch import nn

import jacfast
from jacfast import Frobenius, checks, data, evaluation, models, plots, training
from jacfast.penalties import EntrywiseL1

NAN = float("nan")
MODEL = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 4))
X = torch.rand(3, 6, generator=torch.Generator().manual_seed(0))
Y = torch.tensor([0, 1, 2])


def step(**options):
    return jacfast.forward_with_penalty(MODEL, X, Y, **options)


def attacked(attack, **options):
    return attack(MODEL, X, Y, **options)


def bench(**options):
    chosen = {"seconds": 0.0, "against": ("one-vector",), **options}
    return jacfast.bench(MODEL, X, Y, **chosen)


COUNTS = {  # what takes a count under the name: least, and what takes it
    "chunk_size of a step": (1, step),
    "chunk_size of a recorded step": (1, lambda **o: step(compiled="traced", **o)),
    "chunk_size of rows": (1, lambda **o: jacfast.jacobian(MODEL, X, **o)),
    "step": (0, lambda **o: step(penalty=Frobenius(every=2), **o)),
    "n": (1, Frobenius),
    "n of rows": (1, EntrywiseL1),
    "n of the class": (1, jacfast.JacobianReg),
    "every": (1, Frobenius),
    "iterations": (1, jacfast.Spectral),
    "steps": (1, lambda **o: attacked(jacfast.deepfool, **o)),
    "seed of a direction": (-(2**63), lambda **o: evaluation.input_direction(MODEL, X, Y, **o)),
    "seed of directions": (-(2**63), lambda **o: evaluation.parameter_directions(MODEL, **o)),
    "classes": (2, models.cifar_cnn),
    "widths": (1, lambda widths: models.mlp(6, widths)),
    "start": (0, lambda **o: training.Schedule(0.1, **o)),
    "warmup": (0, lambda **o: training.Schedule(0.1, **o)),
}
NUMBERS = {
    "subsample": Frobenius,
    "target": jacfast.WGANGP,
    "lam": training.Schedule,
    "lam of a bench": bench,
    "seconds": bench,
    "subsample of a bench": bench,
    "step of a figure": lambda **o: plots.hessian_figure({"a": torch.ones(2, 2)}, **o),
    "share": lambda **o: training.Defence(attack=jacfast.fgsm, **o),
    "share without an attack": training.Defence,
    "smoothing": training.Defence,
}
CHOICES = {
    "batch_norm": step,
    "compiled": step,
    "reduction": Frobenius,
    "reduction of the class": jacfast.JacobianReg,
    "norm": jacfast.InputGradient,
    "norm of the decision": jacfast.DecisionFunction,
    "p": lambda **o: attacked(jacfast.minimal_norm, **o),
    "pixels": lambda **o: attacked(jacfast.jsma, steps=1, **o),
    "over": lambda **o: jacfast.rho_adv(MODEL, X, **o),
    "batch_norm of a defence": lambda **o: training.Defence(Frobenius(), 0.1, **o),
}


FLAGS = {
    "abort_early": lambda **o: attacked(jacfast.carlini_wagner, **o),
    "clip_steps": lambda **o: attacked(jacfast.deepfool, **o),
    "labels": lambda **o: evaluation.mean_over(evaluation.accuracy, MODEL, [(X, Y)], **o),
    "labels of files": lambda **o: jacfast.deepfool_to_disk("unmade", MODEL, [X], **o),
    "linked": lambda **o: attacked(jacfast.deep_defense_penalty, **o),
    "progress": lambda **o: attacked(jacfast.deepfool, **o),
    "progress of a report": lambda **o: jacfast.robustness_report(MODEL, X, Y, **o),
    "random_start": lambda **o: attacked(jacfast.pgd, eps=0.1, **o),
    "resume": lambda **o: training.fit(
        MODEL, X, Y, epochs=0, loss=training.Defence(), batch_size=1, lr=0.1, **o
    ),
    "root": Frobenius,
    "stop": lambda **o: attacked(jacfast.jsma, steps=1, **o),
    "twins": lambda **o: training.Defence(attack=jacfast.fgsm, **o),
}
LISTS = {
    "epsilons": lambda **o: evaluation.accuracy_curve(MODEL, X, Y, jacfast.fgsm, **o),
    "eps of a report": lambda **o: jacfast.robustness_report(MODEL, X, Y, **o),
    "mean": lambda **o: models.Normalize(std=[0.5], **o),
    "std": lambda **o: models.Normalize(mean=[0.5], **o),
    "t": lambda **o: evaluation.decision_line(MODEL, X[:1], Y[:1], X[:1], **o),
}
PATHS = {
    "folder": data.load_mnist,
    "out": lambda **o: jacfast.deepfool_to_disk(model=MODEL, batches=[X], **o),
    "path": jacfast.DeepFoolResult.load,
    "path of weights": lambda **o: models.load_weights(MODEL, **o),
}
BEYOND = torch.zeros(3, dtype=torch.int64, device="meta")  # for another device than that of x


def refused(call, label, value, kinds):
    name = label.split()[0]
    with pytest.raises(kinds, match=rf"(?s)\A{name} must .*; got "):
        call(**{name: value})


@pytest.mark.parametrize("value", [True, np.True_, 2.5, 2.0, NAN, "2", [2], np.array([2, 3])])
@pytest.mark.parametrize("label", COUNTS)
def test_what_is_no_integer_is_no_count(label, value):
    refused(COUNTS[label][1], label, value, TypeError)


@pytest.mark.parametrize("label", COUNTS)
def test_a_count_has_a_least_value(label):
    least, call = COUNTS[label]
    refused(call, label, least - 1, ValueError)


@pytest.mark.parametrize("label", COUNTS)
def test_integers_of_numpy_are_counts(label):
    COUNTS[label][1](**{label.split()[0]: np.int64(2)})


@pytest.mark.parametrize("value", [True, "a", [0.5], 1j])
@pytest.mark.parametrize("label", NUMBERS)
def test_what_is_no_number_is_refused(label, value):
    refused(NUMBERS[label], label, value, TypeError)


@pytest.mark.parametrize("value", [NAN, -1.0, float("inf")])
@pytest.mark.parametrize("label", NUMBERS)
def test_a_number_is_finite_and_not_below_zero(label, value):
    refused(NUMBERS[label], label, value, ValueError)


BIG = {"2^63": 2**63, "10^400": 10**400, "-10^5000": -(10**5000)}  # Python writes no 5,000 digits


@pytest.mark.parametrize("big", BIG)
@pytest.mark.parametrize("label", [*COUNTS, *NUMBERS])
def test_integers_end_where_those_of_pytorch_do(label, big):
    value = BIG[big]
    call = COUNTS[label][1] if label in COUNTS else NUMBERS[label]
    if "seed" not in label or value != 2**63:  # seeds go to 2^64 - 1
        refused(call, label, value, ValueError)


@pytest.mark.parametrize("value", ["no", None, 2, NAN, [], torch.ones(2)])
@pytest.mark.parametrize("label", FLAGS)
def test_a_switch_is_true_or_false(label, value):
    refused(FLAGS[label], label, value, TypeError)


@pytest.mark.parametrize("value", [True, np.False_, 1, np.int64(0), torch.tensor(True)])
def test_what_equals_a_switch_is_one(value):
    assert type(checks.flag("root", value)) is bool
    assert checks.flag("root", value) == bool(value)


@pytest.mark.parametrize(
    "value", [0.5, "a", {0.5: 1}, ["a"], [[0.5]], [True], torch.ones(2, 1), np.array(0.5)]
)
@pytest.mark.parametrize("label", LISTS)
def test_what_is_no_list_of_numbers_is_refused(label, value):
    shaped = isinstance(value, torch.Tensor | np.ndarray)
    refused(LISTS[label], label, value, ValueError if shaped else TypeError)


@pytest.mark.parametrize("kind", [list, tuple, np.array, torch.tensor, iter])
def test_a_list_of_numbers_may_be_of_any_kind(kind):
    assert checks.several("mean", kind([0.25, 0.5])) == [0.25, 0.5]
    assert checks.several("mean", [torch.tensor(0.5), np.float32(0.25)]) == [0.5, 0.25]


@pytest.mark.parametrize("value", [1, None, [], torch.ones(2)])
@pytest.mark.parametrize("label", PATHS)
def test_what_is_no_path_is_refused(label, value):
    refused(PATHS[label], label, value, TypeError)


@pytest.mark.parametrize("name", ["y", "target"])
def test_labels_are_where_x_is(name):
    with pytest.raises(ValueError, match=rf"{name} must be on the device of x \(cpu\); got meta"):
        jacfast.fgsm(MODEL, X, eps=0.1, **{name: BEYOND})


@pytest.mark.parametrize("end", [BEYOND, torch.zeros(6, dtype=torch.cfloat), torch.zeros(0, 6)])
def test_bounds_and_sizes_are_real_numbers(end):
    for options in ({"clip": (end, end)}, {"eps": end}):
        name = next(iter(options))
        with pytest.raises(ValueError, match=f"{name} must hold real numbers where it is a tensor"):
            jacfast.fgsm(MODEL, X, Y, **{"eps": 0.1, **options})


def test_bounds_that_are_one_tensor_are_no_pair():
    with pytest.raises(ValueError, match=r"clip must be \(low, high\) .* got a tensor of shape"):
        jacfast.fgsm(MODEL, X, Y, eps=0.1, clip=BEYOND)


def test_a_model_is_named_by_a_word():
    with pytest.raises(TypeError, match="spec must be a str, the name of a model; got NoneType"):
        models.load_factory(None)


@pytest.mark.parametrize("value", [True, "nonsense", [1], np.array([1, 2]), torch.tensor(1), 7])
@pytest.mark.parametrize("label", CHOICES)
def test_what_is_no_choice_is_refused(label, value):
    refused(CHOICES[label], label, value, ValueError)


def test_numbers_of_numpy_are_kept_as_pythons_own():
    one, half = np.int64(1), np.float32(0.5)
    assert repr(Frobenius(one, every=one, subsample=half)) == repr(
        Frobenius(1, every=1, subsample=0.5)
    )
    assert repr(jacfast.Spectral(np.int32(2))) == repr(jacfast.Spectral(2))
    assert repr(jacfast.InputGradient(one)) == repr(jacfast.InputGradient(1))
    assert repr(jacfast.WGANGP(half)) == repr(jacfast.WGANGP(0.5))
    assert repr(training.Schedule(half, one, one)) == repr(training.Schedule(0.5, 1, 1))
    assert repr(training.Defence(Frobenius(), half, jacfast.fgsm, half)) == repr(
        training.Defence(Frobenius(), 0.5, jacfast.fgsm, 0.5)
    )
    assert type(jacfast.JacobianReg(one).n) is int


def test_a_step_says_what_its_penalty_must_be_whatever_its_number_is():
    with pytest.raises(TypeError, match=r"penalty must be a jacfast Penalty, as .*; got str"):
        step(penalty="frobenius", step=2)


def test_a_layer_is_a_name():
    with pytest.raises(ValueError, match=r"layer must name a submodule, one of 0, 1, 2; got \[1\]"):
        step(layer=[1])


@pytest.mark.parametrize("value", ["none", ["a"], 1, None])
def test_rivals_are_names_of_them(value):
    with pytest.raises(ValueError, match="against must hold some of"):
        bench(against=value)


@pytest.mark.parametrize("value", [True, 1.0, [0], torch.tensor(0)])
def test_an_argument_is_a_name_or_a_place(value):
    held = jacfast.penalised(MODEL, argument=value)
    with pytest.raises(TypeError, match="argument must be a name, an index or None; got"), held:
        pass


class Pair(nn.Module):
    def __init__(self):
        super().__init__()
        self.model = MODEL

    def forward(self, x):
        return x, self.model(x)


def test_places_of_numpy_are_places():
    logits, _ = jacfast.forward_with_penalty(Pair(), X, output=np.int64(1))
    assert torch.equal(logits, MODEL(X))
    with jacfast.penalised(MODEL, argument=np.int64(0)):
        assert torch.equal(MODEL(X), logits)
