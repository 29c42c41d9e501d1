"""The function forms of the penalties are calls of the objects."""

import pytest
import torch

import jacfast
from jacfast import (
    R1,
    R2,
    WGANGP,
    ColumnSumL1,
    CrossLipschitz,
    DecisionFunction,
    EntrywiseL1,
    Frobenius,
    InputGradient,
    Spectral,
)
from tests.nets import draw
from tests.penalties.formulas import labelled, seeded

# Each function's arguments after logits and x, and the object that it stands for.
FORMS = [
    ("frobenius_penalty", (), Frobenius(1)),
    ("frobenius_penalty", (3,), Frobenius(3)),
    ("cross_lipschitz_penalty", (), CrossLipschitz(1)),
    ("cross_lipschitz_penalty", (3,), CrossLipschitz(3)),
    ("cross_lipschitz_penalty", ("exact",), CrossLipschitz("exact")),
    ("spectral_penalty", (), Spectral(3)),
    ("spectral_penalty", (1,), Spectral(1)),
    ("entrywise_l1_penalty", (), EntrywiseL1("exact")),
    ("entrywise_l1_penalty", (2,), EntrywiseL1(2)),
    ("column_sum_l1_penalty", (), ColumnSumL1()),
    ("input_gradient_penalty", ("y",), InputGradient()),
    ("input_gradient_penalty", ("y", 1), InputGradient(1)),
    ("wgan_gp_penalty", (), WGANGP(1.0)),
    ("wgan_gp_penalty", (0.5,), WGANGP(0.5)),
    ("r1_penalty", (), R1()),
    ("r2_penalty", (), R2()),
    ("decision_function_penalty", ("y",), DecisionFunction("l1")),
    ("decision_function_penalty", ("y", "l2"), DecisionFunction("l2")),
    ("decision_function_penalty", ("y", "linf"), DecisionFunction("linf")),
]


@pytest.mark.parametrize(("function", "arguments", "penalty"), FORMS)
def test_functions_are_the_objects(function, arguments, penalty):
    model, x, y, _ = labelled("mlp")
    logits, call = model(x), getattr(jacfast, function)
    arguments = [y if argument == "y" else argument for argument in arguments]
    torch.manual_seed(2)
    got = call(logits, x, *arguments)
    torch.manual_seed(2)
    want = penalty(logits, x, y)
    assert torch.equal(got, want)
    params = list(model.parameters())
    assert all(
        torch.equal(a, b)
        for a, b in zip(
            torch.autograd.grad(got, params, retain_graph=True, materialize_grads=True),
            torch.autograd.grad(want, params, materialize_grads=True),
            strict=True,
        )
    )


RANDOM = [form for form in FORMS if form[2].draw(1, torch.ones(1, 5), seeded()) is not None]


@pytest.mark.parametrize(("function", "arguments", "penalty"), RANDOM)
def test_functions_pass_their_generator_on(function, arguments, penalty):
    model, x, _, _ = labelled("mlp")
    logits, call = model(x), getattr(jacfast, function)
    for seed in (7, 8):
        got = call(logits, x, *arguments, generator=seeded(seed))
        assert torch.equal(got, penalty(logits, x, generator=seeded(seed)))
    assert got != call(logits, x, *arguments, generator=seeded(7))


def test_the_length_of_gradients_may_be_learned():
    critic, x = torch.nn.Linear(3, 1).double(), draw(4, 3).requires_grad_()
    target = torch.nn.Parameter(torch.tensor(0.7, dtype=torch.float64))
    value = WGANGP(target=target)(critic(x), x)
    length = critic.weight.norm()
    torch.testing.assert_close(value, (length - 0.7).square())
    (g,) = torch.autograd.grad(value, target)
    torch.testing.assert_close(g, -2 * (length.detach() - 0.7))
    with pytest.raises(ValueError, match=r"target must be one number; got shape \[2\]"):
        WGANGP(target=torch.ones(2))
