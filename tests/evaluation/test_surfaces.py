"""Surfaces: each point against the model called there."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from jacfast.evaluation import input_surface, parameter_directions, parameter_surface, plane
from jacfast.evaluation.surfaces import VALUES
from tests.nets import CLASSIFIERS, build, draw


def value(z, y, of):
    if of == "loss":
        return float(F.cross_entropy(z, y))
    if of == "logits":
        return z[0].tolist()
    keep = torch.arange(z.shape[1]) != y[0]
    return float({"decision": z[0, y[0]] - z[0, keep].max(), "label": z[0].argmax()}[of])


@pytest.mark.parametrize("of", VALUES)
@pytest.mark.parametrize("name", CLASSIFIERS)
def test_input(name, of):
    model, x = build(name, 1)
    model.eval()
    y = torch.tensor([2])
    directions = plane(draw(*x.shape[1:]), draw(*x.shape[1:], seed=2))
    got = input_surface(model, x, y, directions, 0.7, of=of, points=17)  # more than one batch
    assert got.values.shape == ((17, 17, model(x).shape[1]) if of == "logits" else (17, 17))
    assert got.steps[8] == 0
    assert got.steps[-1] == -got.steps[0] == 0.7
    for i, j in ((0, 0), (3, 11), (8, 8), (16, 2)):
        a, b = got.steps[i], got.steps[j]
        z = model(x + a * directions[0] + b * directions[1]).detach().flatten(1)
        assert got.values[i, j].tolist() == pytest.approx(value(z, y, of), abs=1e-12)


@pytest.mark.parametrize("of", ["loss", "decision"])
def test_of_logits_in_bfloat16_no_more_is_rounded_off(of):
    """The loss of the logits that the model gives, in float64: bfloat16 has two digits of it."""
    model, x = build("mlp", 1)
    model, x, y = model.bfloat16(), x.bfloat16(), torch.tensor([2])
    among, alone = (model(x.expand(n, -1)).detach()[:1].double() for n in (9, 1))
    got = input_surface(model, x, y, plane(draw(6), draw(6, seed=2)), 0.5, of=of, points=3)
    assert float(got.values[1, 1]) == pytest.approx(value(among, y, of), rel=1e-12)
    got = parameter_surface(model, x, y, parameter_directions(model), of=of, points=3)
    assert float(got.values[1, 1]) == pytest.approx(value(alone, y, of), rel=1e-12)


@pytest.mark.parametrize("hole", [float("nan"), float("inf")])
def test_where_logits_say_no_class_the_label_is_none(hole):
    """NaN of a class is no sign of it, though argmax takes it for the largest logit."""

    def model(x):
        return torch.stack([x[:, 0], torch.where(x[:, 1] > 0.5, hole, 0.0 * x[:, 1])], dim=1)

    x, y, plane = torch.zeros(1, 2).double(), torch.tensor([0]), torch.eye(2).double()
    with pytest.warns(UserWarning, match="NaN or infinite in 3 of 9 samples"):
        got = input_surface(model, x, y, plane, 1.0, of="label", points=3)
    assert got.values.tolist() == [[1, 1, -1], [0, 0, -1], [0, 0, -1]]


@pytest.mark.parametrize("of", ["loss", "decision"])
def test_parameters(of):
    model, x = build("cnn", 3)
    y = torch.tensor([2, 0, 1])
    shapes = {name: p.shape for name, p in model.named_parameters()}  # biases move as well
    directions = [{name: draw(*size, seed=k) for name, size in shapes.items()} for k in (1, 2)]
    got = parameter_surface(model, x, y, directions, 0.5, of=of, points=5)
    with torch.no_grad():
        for name, p in model.named_parameters():
            p += got.steps[1] * directions[0][name] + got.steps[4] * directions[1][name]
    z = model(x).detach()
    want = sum(value(z[i : i + 1], y[i : i + 1], of) for i in range(3)) / 3
    assert float(got.values[1, 4]) == pytest.approx(want, rel=1e-12)


class Fragile(nn.Module):
    """Fail at the third call."""

    def __init__(self):
        super().__init__()
        self.layer, self.calls = nn.Linear(3, 2), 0

    def forward(self, x):
        self.calls += 1
        if self.calls == 3:
            raise RuntimeError("the third call")
        return self.layer(x)


def test_parameters_are_as_before_also_after_an_exception():
    model = Fragile().train()
    own = dict(model.named_parameters())
    copies = {name: p.detach().clone() for name, p in own.items()}
    with pytest.raises(RuntimeError, match="the third call"):
        parameter_surface(
            model, draw(2, 3).float(), torch.tensor([0, 1]), parameter_directions(model)
        )
    assert model.training
    for name, p in model.named_parameters():
        assert p is own[name]
        assert torch.equal(p, copies[name])
        assert p.requires_grad
        assert p.grad is None


TWO = torch.eye(3)[:2].double()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m, x, y: input_surface(m, x, y, (1 - TWO).log(), 1.0), "directions must be finite"),
        (lambda m, x, y: input_surface(m, x, y, TWO, 1.0, points=1), "points must be >= 3; got 1"),
        (
            lambda m, x, y: parameter_surface(
                m, x, y, [{n: t[:1] for n, t in d.items()} for d in parameter_directions(m)]
            ),
            "every parameter of the model in its shape",
        ),
        (lambda m, x, y: input_surface(m, x, y, TWO, 0.0), "extent must be finite and > 0"),
        (lambda m, x, y: input_surface(m, x, y, TWO, 1.0, points=4), "points must be odd"),
        (lambda m, x, y: input_surface(m, x, y, TWO, 1.0, of="x"), "of must be one of loss"),
        (lambda m, x, y: input_surface(m, x, y, TWO[:1], 1.0), r"directions must be \[2, ...\]"),
        # the two side by side, as torch.stack(..., dim=-1) has them: other numbers, reshaped
        (lambda m, x, y: input_surface(m, x, y, TWO.T, 1.0), r"sample \[3\]; got \[3, 2\]"),
        (lambda m, x, y: input_surface(m, x, y + 7, TWO, 1.0, of="loss"), "y must lie in 0"),
        (
            lambda m, x, y: input_surface(m, draw(2, 3), torch.tensor([0, 1]), TWO, 1.0),
            "one sample",
        ),
        (lambda m, x, y: parameter_surface(m, x, y, [{}, {}]), "directions must be two"),
        (lambda m, x, y: parameter_surface(m, x, y, []), "directions must be two"),
        (lambda m, x, y: parameter_surface(m, x, y, [], of="label"), "of must be loss or decision"),
    ],
)
def test_errors(call, message):
    with pytest.raises(ValueError, match=message):
        call(nn.Linear(3, 3).double(), draw(1, 3), torch.tensor([0]))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m, x, y: input_surface(m, x, y, [1.0], 1.0), "directions must be a torch.Tensor"),
        (lambda m, x, y: input_surface(m, x, y, TWO, 1.0, points=5.0), "points must be an integer"),
        (lambda m, x, y: input_surface(m, x, y, TWO, "1"), "extent must be a number; got str"),
        (
            lambda m, x, y: parameter_surface(lambda x: x, x, y, parameter_directions(m)),
            "model must be a torch.nn.Module; got function",
        ),
    ],
)
def test_wrong_types(call, message):
    with pytest.raises(TypeError, match=message):
        call(nn.Linear(3, 3).double(), draw(1, 3), torch.tensor([0]))
