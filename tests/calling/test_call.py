"""Every attack and measure of a model with further arguments, and with several outputs."""

import dataclasses
import functools
import inspect
import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import jacfast
from jacfast import evaluation
from jacfast.evaluation.predict import predict
from tests.nets import draw

N, BOX = 5, (-9.0, 9.0)
X, MASK, TABLE = draw(N, 6), draw(N, 8, seed=2), draw(1, 8, seed=3)
Y = torch.arange(N) % 4


class Conditional(nn.Module):
    """Logits of x and of a condition of each sample, among other outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(6, 8), nn.Linear(8, 4)

    def forward(self, x: Tensor, condition: Tensor, *, states: dict, scale: float) -> dict:
        h = torch.tanh(self.first(x) + condition + states["table"]) * scale
        return {"features": h, "scores": self.last(h + states["of samples"])}


def conditional() -> Conditional:
    torch.manual_seed(0)
    return Conditional().double()


def given(rows: slice = slice(None)) -> dict:
    states = {"table": TABLE, "of samples": MASK.flip(1)[rows]}
    kwargs = {"states": states, "scale": 1.5}
    return {"args": (MASK[rows],), "kwargs": kwargs, "output": "scores"}


def start() -> torch.Generator:
    return torch.Generator().manual_seed(0)


D = draw(6, seed=7)
PLANE = torch.linalg.qr(draw(6, 2, seed=8))[0].T
CALLS = {
    "deepfool": lambda m, x, y, **k: jacfast.deepfool(m, x, **k).r,
    "deepfool, in batches": lambda m, x, y, **k: jacfast.deepfool(m, x, batch_size=2, **k).r,
    "deepfool, two points": lambda m, x, y, **k: jacfast.deepfool(m, x, test="plain", **k).r,
    "superdeepfool": lambda m, x, y, **k: jacfast.deepfool(m, x, variant="super", **k).r,
    "survives_rounding": lambda m, x, y, **k: jacfast.deepfool(m, x, **k).survives_rounding(
        m, box=BOX, levels=64, **k
    ),
    "fgsm": lambda m, x, y, **k: jacfast.fgsm(m, x, y, eps=0.1, clip=None, **k),
    "bim": lambda m, x, y, **k: jacfast.bim(m, x, y, eps=0.1, clip=None, **k),
    "pgd": lambda m, x, y, **k: jacfast.pgd(
        m, x, y, eps=0.1, clip=None, random_start=False, p=2, **k
    ),
    "carlini_wagner": lambda m, x, y, **k: jacfast.carlini_wagner(
        m, x, clip=BOX, steps=20, binary_steps=3, initial_const=1, lr=0.3, **k
    ),
    "ddn": lambda m, x, y, **k: jacfast.ddn(m, x, y, steps=5, clip=(-9, 9), **k),
    "fmn": lambda m, x, y, **k: jacfast.fmn(m, x, y, steps=5, clip=(-9, 9), **k),
    "minimal_norm": lambda m, x, y, **k: jacfast.minimal_norm(m, x, y, budget=20, clip=None, **k),
    "jsma": lambda m, x, y, **k: jacfast.jsma(m, x, y, steps=3, clip=None, **k),
    "jacobian": lambda m, x, y, **k: jacfast.jacobian(m, x, **k),
    "predict": lambda m, x, y, **k: predict(m, x, 2, **k),
    "decision_function": lambda m, x, y, **k: evaluation.decision_function(m, x, y, **k),
    "decision_gradient": lambda m, x, y, **k: evaluation.decision_gradient(m, x, y, **k),
    "curvature": lambda m, x, y, **k: evaluation.curvature(m, x, y, D, **k),
    "distance_bounds": lambda m, x, y, **k: evaluation.distance_bounds(m, x, 2, **k).boundary,
    "input_direction": lambda m, x, y, **k: evaluation.input_direction(m, x, y, "loss", **k),
    "decision_hessian": lambda m, x, y, **k: evaluation.decision_hessian(m, x, y, **k),
    "hessian_eigenvalues": lambda m, x, y, **k: evaluation.hessian_eigenvalues(m, x, y, 2, **k),
    "mean_value_bound": lambda m, x, y, **k: evaluation.mean_value_bound(m, x, x + 0.1, **k).right,
    "curvature_bound": lambda m, x, y, **k: evaluation.curvature_bound(m, x, **k).left,
}
ONE = {  # of one sample each
    "decision_line": lambda m, x, y, **k: evaluation.decision_line(m, x, y, D, [0, 1.0], **k).slope,
    "input_surface": lambda m, x, y, **k: (
        evaluation.input_surface(m, x, y, PLANE, 1.0, points=3, **k).values
    ),
}
MEANS = {
    "rho_adv": lambda m, x, y, **k: jacfast.rho_adv(m, x, **k),
    "accuracy": lambda m, x, y, **k: evaluation.accuracy(m, x, y, batch_size=2, **k),
    "accuracy_curve": lambda m, x, y, **k: evaluation.accuracy_curve(
        m,
        x,
        y,
        lambda model, a, b, *, eps: jacfast.fgsm(model, a, b, eps=eps, clip=None),
        [0.3],
        **k,
    )[0],
    "jacobian_norm": lambda m, x, y, **k: evaluation.jacobian_norm(m, x, batch_size=2, **k),
    "deep_defense_penalty": lambda m, x, y, **k: float(jacfast.deep_defense_penalty(m, x, y, **k)),
    "parameter_surface": lambda m, x, y, **k: evaluation.parameter_surface(
        m, x, y, evaluation.parameter_directions(m, seed=0), points=3, **k
    ).values[0, 1],
}

SETS = {  # of all samples together
    "reference_epsilon": lambda m, x, y, **k: evaluation.reference_epsilon(
        m, x, y, functools.partial(jacfast.fgsm, clip=None), high=30, **k
    ),
    "roc_curves": lambda m, x, y, **k: evaluation.roc_curves(m, x, y, **k)[0].auc,
}


def by_hand(call, model: nn.Module, of: str) -> list:
    """Call with a function of one sample at a time, which knows its arguments by itself."""
    found = []
    for i in range(N):
        here = slice(i, i + 1)
        states = {"table": TABLE, "of samples": MASK.flip(1)[here]}

        def alone(x, here=here, states=states):
            condition = MASK[here].expand(len(x), 8)
            return model(x, condition, states=states, scale=1.5)[of]

        found.append(call(alone, X[here], Y[here]))
    return found


@pytest.mark.parametrize("name", CALLS)
def test_arguments_go_along_with_their_samples(name):
    model = conditional()
    got = CALLS[name](model, X, Y, **given())
    torch.testing.assert_close(got, torch.cat(by_hand(CALLS[name], model, "scores")))


@pytest.mark.parametrize("name", ONE)
def test_arguments_of_one_sample_are_those_of_every_point(name):
    model = conditional()
    for i, want in enumerate(by_hand(ONE[name], model, "scores")):
        here = slice(i, i + 1)
        torch.testing.assert_close(ONE[name](model, X[here], Y[here], **given(here)), want)


@pytest.mark.parametrize("name", sorted(MEANS.keys() - {"parameter_surface"}))
def test_means(name):
    model = conditional()
    got = MEANS[name](model, X, Y, **given())
    assert got == pytest.approx(sum(by_hand(MEANS[name], model, "scores")) / N, rel=1e-9)


@pytest.mark.parametrize("name", SETS)
def test_measures_of_a_set(name):
    model, states = conditional(), given()["kwargs"]["states"]

    def alone(x):
        assert len(x) == N
        return model(x, MASK, states=states, scale=1.5)["scores"]

    y = alone(X).argmax(dim=1)
    y[:1] += 1
    got = SETS[name](model, X, y % 4, batch_size=2, **given())
    assert got == pytest.approx(SETS[name](alone, X, y % 4), rel=1e-9)


def test_parameter_surface():
    model = conditional()
    got = MEANS["parameter_surface"](model, X, Y, **given())
    directions = evaluation.parameter_directions(model, seed=0)[0]
    with torch.no_grad():
        for name, p in model.named_parameters():
            p -= directions[name]  # a = -1, b = 0
        logits = model(X, MASK, states=given()["kwargs"]["states"], scale=1.5)["scores"]
    assert float(got) == pytest.approx(float(nn.functional.cross_entropy(logits, Y)))


def test_a_restart_takes_the_arguments_of_those_that_are_left():
    """With arguments that sum up to nothing but where they stay with their sample."""
    model, noise = nn.Linear(6, 4).double(), draw(N, 4, seed=9)
    options = {"eps": 0.3, "clip": None, "restarts": 3}

    def shifted(x, plus, minus):
        assert torch.equal(plus, -minus)
        assert len(x) == len(plus)
        return model(x) + plus + minus

    got = jacfast.pgd(shifted, X, Y, **options, generator=start(), args=(noise, -noise))
    assert torch.equal(got, jacfast.pgd(model, X, Y, **options, generator=start()))


def test_the_signature_and_the_docstring_say_so():
    for function in (jacfast.deepfool, jacfast.jacobian, evaluation.accuracy, jacfast.rho_adv):
        parameters = inspect.signature(function).parameters
        assert parameters["args"].default == ()
        assert parameters["kwargs"].default is None
        assert parameters["output"].default is None
        assert "``args``" in function.__doc__


@pytest.mark.parametrize("name", sorted({**CALLS, **ONE, **MEANS, **SETS}))
def test_an_option_that_there_is_not_is_refused(name):
    """A slip of the pen, or another toolbox's name of an option, must not run with the default."""
    model, call = conditional(), {**CALLS, **ONE, **MEANS, **SETS}[name]
    rows = slice(1) if name in ONE else slice(None)
    with pytest.raises(TypeError, match=r"takes no option max_iter; it takes .*args, .*kwargs"):
        call(model, X[rows], Y[rows], max_iter=1, **given(rows))


def test_users_functions_get_the_model_itself():
    model, seen = nn.Linear(6, 4).double(), []

    def attack(model, x, y, *, eps):
        seen.append(model)
        return x

    evaluation.accuracy_curve(model, X, Y, attack, [0.1])
    assert seen == [model]


def test_what_cannot_be_called():
    with pytest.raises(TypeError, match="model must be a function of x; got NoneType"):
        jacfast.jacobian(None, X)


# Not where two public functions are called, nor for Jacobians of any outputs.
OF_LOGITS = sorted(
    (CALLS.keys() | MEANS.keys())
    - {"survives_rounding", "accuracy_curve", "jacobian", "jacobian_norm", "parameter_surface"}
)


@pytest.mark.parametrize("name", OF_LOGITS)
def test_probabilities_draw_one_warning_each(name):
    model = nn.Sequential(nn.Linear(6, 4), nn.Softmax(1)).double()
    with pytest.warns(UserWarning, match="look like probabilities") as caught:
        (CALLS | MEANS)[name](model, X, Y)
    said = [w for w in caught if "probabilities" in str(w.message)]
    assert len(said) == 1
    assert said[0].filename == __file__


@dataclasses.dataclass
class Returned:
    logits: Tensor


def test_logits_are_found_by_themselves():
    net = nn.Linear(6, 4).double()
    want = jacfast.deepfool(net, X).r
    for wrapped in (
        lambda x: Returned(net(x)),
        lambda x: {"logits": net(x), "hidden": x},
        lambda x: (net(x), None),
    ):
        assert torch.equal(jacfast.deepfool(wrapped, X).r, want)
    assert torch.equal(jacfast.deepfool(lambda x: (x, net(x)), X, output=1).r, want)


def test_not_finite_weights_are_named():
    model = nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 3)).double()
    model[2].bias.data[1] = torch.nan
    for call in (
        lambda: evaluation.accuracy(model, X, Y % 3),
        lambda: jacfast.rho_adv(model, X),
        lambda: evaluation.decision_function(model, X, Y % 3),
    ):
        with pytest.raises(ValueError, match=r"parameter 2\.bias must be finite; 1 of its 3"):
            call()


def test_not_finite_samples_are_named():
    model, x = nn.Linear(6, 4).double(), X.clone()
    x[2, 0], x[4, 1] = torch.nan, torch.inf
    for call in (lambda: evaluation.accuracy(model, x, Y), lambda: jacfast.rho_adv(model, x)):
        with pytest.warns(UserWarning, match="x holds NaN or infinity in 2 of 5 samples.*at 2"):
            call()
    with warnings.catch_warnings(record=True) as said:  # of x alone, where the model looks at it
        warnings.simplefilter("always")
        evaluation.accuracy(lambda x: F.linear(x[:, 1:], model.weight[:, 1:]), x, Y)
    assert ["in 1 of 5 samples, the first at 4" in str(one.message) for one in said] == [True]
    with pytest.warns(UserWarning, match="logits are NaN or infinite in 5 of 5 samples"):
        evaluation.accuracy(lambda x: model(x) / 0, X, Y)


def test_minus_infinity_rules_a_class_out_and_is_no_fault():
    model = nn.Linear(6, 4).double()
    model.register_buffer("mask", torch.tensor([0, 0, 0, -torch.inf]))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        evaluation.accuracy(lambda x: model(x) + model.mask, X, Y)


@pytest.mark.parametrize("name", sorted(CALLS | MEANS | ONE | SETS))
def test_of_a_pair_it_is_the_logits_that_count_and_nothing_is_penalised(name):
    call, x = (CALLS | MEANS | ONE | SETS)[name], X[:1] if name in ONE else X
    model = nn.Sequential(nn.Linear(6, 9), nn.Tanh(), nn.Linear(9, 4)).double().eval()
    y = model(x).argmax(dim=1) if name == "reference_epsilon" else Y[: len(x)]
    pair, before = jacfast.WithPenalty(model, jacfast.Frobenius(reduction="none")), start()
    torch.set_rng_state(before.get_state())
    want, drawn = call(model, x, y), torch.get_rng_state()
    torch.set_rng_state(before.get_state())
    torch.testing.assert_close(call(pair, x, y), want)
    assert torch.equal(torch.get_rng_state(), drawn)
    assert pair(x)[1].any()
