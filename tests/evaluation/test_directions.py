"""Directions: unit gradients against torch.func, planes, scaled random weights."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from jacfast.evaluation import input_direction, parameter_directions, plane
from tests.nets import CLASSIFIERS, build, draw

GRADIENTS = {
    "loss": lambda z, y: F.cross_entropy(z[None], y[None]),
    "least_likely": lambda z, y: -F.cross_entropy(z[None], z.argmin()[None]),
    "margin": lambda z, y: z[torch.arange(len(z)) != y].max() - z[y],
}


@pytest.mark.parametrize("kind", GRADIENTS)
@pytest.mark.parametrize("name", CLASSIFIERS)
def test_gradients(name, kind):
    model, x = build(name, 5)
    model.eval()
    y = torch.arange(5) % 5
    for got, s, k in zip(input_direction(model, x, y, kind), x, y, strict=True):
        loss, size = GRADIENTS[kind], s.shape
        g = torch.func.grad(lambda s, k=k, loss=loss: loss(model(s[None])[0].flatten(), k))(s)
        torch.testing.assert_close(got, (g / g.norm()).view(size))


def test_a_saturated_softmax_still_has_a_direction():
    weight = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    bias, x, y = torch.tensor([900.0, 0.0, 40.0]), torch.zeros(1, 2), torch.tensor([0])

    def model(x):
        return x @ weight.T + bias

    got = input_direction(model, x, y, "loss")  # all but class 2 underflows: e_2 - e_0
    torch.testing.assert_close(got, torch.tensor([[0.0, 1.0]]))
    got = input_direction(model, x, y, "least_likely")  # label 1, all others but class 0 underflow
    torch.testing.assert_close(got, torch.tensor([[-1.0, 1.0]]) / 2**0.5)


@pytest.mark.parametrize("power", [-100, 100])
def test_the_size_of_a_gradient_plays_no_part(power):
    """Its square vanishes, or overflows, in float32."""
    model, x = build("smooth_mlp", 5, torch.float32)
    y = torch.arange(5)
    got = input_direction(lambda x: model(x) * 2.0**power, x, y, "margin")
    assert torch.equal(got, input_direction(model, x, y, "margin"))


def test_a_model_in_training_mode_inside_no_grad():
    """It is evaluated in eval mode, with a graph, and left as it was."""
    model = nn.Sequential(nn.Linear(6, 40), nn.Tanh(), nn.Dropout(0.9), nn.Linear(40, 3)).double()
    x, y = draw(4, 6), torch.tensor([0, 1, 2, 0])
    want = input_direction(model.eval(), x, y, "loss")
    with torch.no_grad(), pytest.warns(UserWarning, match="dropout or batch-norm in training mode"):
        got = input_direction(model.train(), x, y, "loss")
    assert torch.equal(got, want)
    assert all(module.training for module in model.modules())


def test_random_directions_follow_the_seed_alone():
    model, x = build("cnn", 3)
    y, state = torch.tensor([0, 1, 2]), torch.get_rng_state()
    one, two = (input_direction(model, x, y, seed=seed) for seed in (1, 2))
    assert torch.equal(one, input_direction(model, x, y, seed=1))
    assert torch.equal(one[0], one[2])
    assert not torch.allclose(one, two)
    torch.testing.assert_close(one.flatten(1).norm(dim=1), torch.ones(3, dtype=torch.float64))
    assert torch.equal(torch.get_rng_state(), state)


def test_plane():
    first, second = draw(2, 3), draw(2, 3, seed=2)
    got = plane(first, second).flatten(1)
    torch.testing.assert_close(got @ got.T, torch.eye(2, dtype=torch.float64))
    torch.testing.assert_close(got[0], first.flatten() / first.norm())
    assert got[1] @ second.flatten() > 0
    rest = second.flatten() - got.T @ (got @ second.flatten())
    assert rest.norm() < 1e-12


@pytest.mark.parametrize(("dtype", "least"), [(torch.float64, 1e-14), (torch.float32, 1e-7)])
def test_a_plane_of_nearly_parallel_directions_is_orthonormal(dtype, least):
    first, second = draw(1000, seed=1).to(dtype), draw(1000, seed=2).to(dtype)
    got = plane(first, first + 1e-5 * second)
    assert got.dtype == dtype
    wide = got.double()
    torch.testing.assert_close(wide @ wide.T, torch.eye(2).double(), rtol=0, atol=least)


def test_filters():
    model, _ = build("conv_batch_norm")
    for direction in parameter_directions(model):
        for name, p in model.named_parameters():
            if p.dim() < 2:
                assert not bool(direction[name].any())
            else:
                sizes = direction[name].flatten(1).norm(dim=1)
                torch.testing.assert_close(sizes, p.detach().flatten(1).norm(dim=1))


def test_directions_of_parameters_are_two_and_follow_the_seed_alone():
    model, _ = build("mlp")
    state = torch.get_rng_state()
    found = [*parameter_directions(model, seed=3), parameter_directions(model, seed=4)[0]]
    flat = [torch.cat([d.flatten() for d in direction.values()]) for direction in found]
    for a, b in ((0, 1), (0, 2)):
        assert abs(torch.cosine_similarity(flat[a], flat[b], dim=0)) < 0.5
    again = parameter_directions(model, seed=3)[1]
    assert all(torch.equal(again[name], d) for name, d in found[1].items())
    assert torch.equal(torch.get_rng_state(), state)


def test_directions_of_complex_parameters_lead_along_both_axes():
    layer = nn.Linear(50, 4, dtype=torch.complex64)
    weight = parameter_directions(layer)[0]["weight"]
    torch.testing.assert_close(weight.norm(dim=1), layer.weight.detach().norm(dim=1))
    shares = torch.view_as_real(weight).square().mean((0, 1)) / weight.abs().square().mean()
    assert bool((shares - 0.5).abs().max() < 0.2)  # deviation 0.04, and the seed is fixed


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda m, x, y: input_direction(m, x, y, "up"), ValueError, "kind must be one of random"),
        (lambda m, x, y: input_direction(m, 0 * x, y + 9, "loss"), ValueError, "y must lie in"),
        (lambda m, x, y: input_direction(m, x, y[:0]), ValueError, r"y must have shape \[N\]"),
        (
            lambda m, x, y: input_direction(lambda x: x[:, :1], x, y, "loss"),
            ValueError,
            "at least 2 logits per sample; got 1",
        ),
        (
            lambda m, x, y: input_direction(lambda x: 0 * x, x, y, "margin"),
            ValueError,
            "gradient of kind='margin' must be finite and not zero",
        ),
        (
            lambda m, x, y: input_direction(lambda z: (z - x).sqrt(), x, y, "loss"),
            ValueError,
            "gradient of kind='loss' must be finite and not zero",
        ),
        (lambda m, x, y: plane(x, 3 * x), ValueError, "they are parallel"),
        (lambda m, x, y: plane(x, 0 * x), ValueError, "they are parallel"),
        (
            lambda m, x, y: plane(torch.ones(1, 1), torch.ones(1, 1)),
            ValueError,
            r"must have two entries at least, to span a plane; got \[1, 1\]",
        ),
        (lambda m, x, y: plane(x, x[0]), ValueError, "must have one shape"),
        (lambda m, x, y: plane(x, None), TypeError, "second must be a torch.Tensor; got NoneType"),
        (
            lambda m, x, y: plane(x.long(), x),
            TypeError,
            "first must be float32, .* got torch.int64",
        ),
        (lambda m, x, y: parameter_directions(lambda x: x), TypeError, "model must be a torch.nn"),
        (lambda m, x, y: parameter_directions(nn.DataParallel(m)), TypeError, "the module inside"),
        (lambda m, x, y: parameter_directions(torch.jit.trace(m, x)), TypeError, "of torch.jit"),
    ],
)
@pytest.mark.filterwarnings("ignore:`torch.jit")
def test_errors(call, error, message):
    with pytest.raises(error, match=message):
        call(nn.Linear(3, 3).double(), draw(1, 3), torch.tensor([0]))
