"""Bounds of gradients, against the gradients and against singular values."""

import math

import pytest
import torch
from torch import nn

from jacfast import jacobian
from jacfast.lipschitz import _norm, chain, gradient_bound
from tests.nets import draw

LAYERS = {
    "linear": (nn.Linear(6, 4), (6,)),
    "wide linear": (nn.Linear(4, 40), (4,)),
    "conv": (nn.Conv2d(2, 3, 3, padding=1), (2, 6, 5)),
    "full padding": (nn.Conv2d(1, 3, 3, padding=2), (1, 4, 4)),
    "same": (nn.Conv2d(2, 2, (3, 2), padding="same"), (2, 5, 5)),
    "stride": (nn.Conv2d(2, 4, 3, stride=2), (2, 7, 7)),
    "dilation": (nn.Conv2d(1, 2, 3, dilation=2, padding=2), (1, 6, 6)),
    "groups": (nn.Conv2d(4, 6, 3, groups=2), (4, 5, 5)),
    "windows apart": (nn.Conv2d(3, 4, 4, stride=4), (3, 8, 12)),
    "average pool": (nn.AvgPool2d(2), (2, 4, 4)),
    "overlapping average": (nn.AvgPool2d(3, stride=1), (1, 5, 5)),
    "partly overlapping average": (nn.AvgPool2d(3, stride=2), (1, 7, 7)),
}


def matrix_of(layer, shape):
    """Return the derivative of a linear layer as a matrix."""
    x = torch.zeros(1, *shape, dtype=torch.float64)
    return torch.func.jacrev(layer)(x).reshape(-1, x.numel()).detach()


@pytest.mark.parametrize("name", LAYERS)
def test_the_norm_of_a_layer_is_bounded(name):
    layer, shape = LAYERS[name]
    torch.manual_seed(0)
    layer = layer.double()
    for parameter in layer.parameters():
        nn.init.normal_(parameter)
    exact = float(torch.linalg.matrix_norm(matrix_of(layer, shape), 2))
    bound = _norm(layer, torch.zeros(1, *shape, dtype=torch.float64))
    slack = 1.2 if "linear" in name else 1.7  # the others: of an image larger by the kernel
    assert exact * (1 - 1e-9) <= bound <= slack * exact


@pytest.mark.parametrize(
    ("options", "kernel", "size"),
    [
        # seen at the ends of an image of two it is 0 at both of their frequencies
        ({"kernel_size": (1, 3), "padding": (0, 2)}, [[1.0, 0.0, -1.0]], (1, 2)),
        # with a dilation as large as the stride an entry is in as many windows as without both
        ({"kernel_size": 2, "stride": 2, "dilation": 2}, [[1.0, 1.0], [1.0, 1.0]], (14, 14)),
    ],
)
def test_kernels_that_a_bound_may_miss(options, kernel, size):
    layer = nn.Conv2d(1, 1, bias=False, **options).double()
    layer.weight.data[0, 0] = torch.tensor(kernel)
    exact = float(torch.linalg.matrix_norm(matrix_of(layer, (1, *size)), 2))
    assert exact <= _norm(layer, torch.zeros(1, 1, *size).double()) <= 1.7 * exact


@pytest.mark.parametrize("sizes", [(3, 1), ((3,), (1,))])
def test_an_overlapping_maximum_sends_a_gradient_to_one_entry_from_every_window(sizes):
    x = torch.zeros(1, 1, 5, 5)
    x[..., 2, 2] = 1.0
    matrix = torch.func.jacrev(nn.MaxPool2d(3, stride=1))(x).reshape(-1, 25)
    exact = float(torch.linalg.matrix_norm(matrix, 2))
    assert exact == pytest.approx(3.0)
    assert _norm(nn.MaxPool2d(*sizes), x) == pytest.approx(3.0)


def deep():
    torch.manual_seed(0)
    front = nn.Sequential(nn.Conv2d(2, 4, 3, stride=2), nn.ReLU(), nn.MaxPool2d(2, stride=1))
    back = [nn.Flatten(), nn.Linear(16, 12), nn.Tanh(), nn.Dropout(0.5), nn.Linear(12, 4)]
    return nn.Sequential(front, *back).double().eval()


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_no_gradient_of_a_network_exceeds_the_bound(scale):
    model, x = deep(), scale * draw(50, 2, 8, 8)
    layers = chain(model)
    assert len(layers) == 8
    bound = gradient_bound(layers, x)
    rows = jacobian(model, x).flatten(2)
    actual = torch.cdist(rows, rows)
    assert bool((actual <= bound).all())
    assert float((actual / bound).max()) > 0.02  # far, but not without use


def test_of_a_single_layer_the_bound_is_the_gradient():
    model, x = nn.Sequential(nn.Linear(6, 3)).double(), draw(2, 6)
    weight = model[0].weight.detach()
    bound = gradient_bound(chain(model), x)
    torch.testing.assert_close(bound, torch.cdist(weight, weight), rtol=2e-3, atol=1e-5)


def test_tiny_weights_do_not_underflow():
    layer = nn.Linear(6, 4)
    layer.weight.data.mul_(1e-28)
    exact = float(torch.linalg.matrix_norm(layer.weight.detach().double(), 2))
    assert exact * (1 - 1e-5) <= _norm(layer, torch.zeros(1, 6)) <= 1.2 * exact


def test_a_large_layer_is_left_alone(monkeypatch):
    monkeypatch.setattr("jacfast.lipschitz.LARGE", 23)
    assert _norm(nn.Linear(6, 4), torch.zeros(1, 6)) == math.inf


def test_the_input_is_kept():
    model, x = nn.Sequential(nn.ReLU(inplace=True), nn.Linear(6, 3)).double(), draw(2, 6)
    kept = x.clone()
    gradient_bound(chain(model), x)
    assert torch.equal(x, kept)


def test_rows_that_are_nearly_the_same_are_not_taken_for_equal():
    weight = 1e3 + torch.rand(1, 500) + 1e-3 * torch.randn(40, 500)
    model = nn.Sequential(nn.Linear(500, 40))
    model[0].weight.data.copy_(weight)
    exact = (model[0].weight.detach().double()[:, None] - model[0].weight.detach().double()).norm(
        dim=2
    )
    assert bool((gradient_bound(chain(model), torch.zeros(1, 500)) >= exact).all())


def test_a_large_spectrum_is_not_computed(monkeypatch):
    """The bound over windows takes its place; both hold."""
    monkeypatch.setattr("jacfast.lipschitz.SPECTRUM", 0)
    for name, (layer, shape) in LAYERS.items():
        if "conv" not in type(layer).__name__.lower():
            continue
        exact = float(torch.linalg.matrix_norm(matrix_of(layer.double(), shape), 2))
        bound = _norm(layer, torch.zeros(1, *shape, dtype=torch.float64))
        assert exact <= bound <= 5 * exact, name


def hooked(attach, whole=False):
    model = deep()
    attach(model if whole else model[0][0])
    return model


UNKNOWN = {
    "a function": lambda: lambda x: x,
    "another container": lambda: nn.ModuleList([nn.Linear(2, 2)]),
    "a subclass": lambda: type("Own", (nn.Sequential,), {})(nn.Linear(2, 2)),
    "an unknown layer": lambda: nn.Sequential(nn.LayerNorm(3), nn.Linear(3, 2)),
    "nothing": lambda: nn.Sequential(),
    "no linear end": lambda: nn.Sequential(nn.Linear(3, 2), nn.ReLU()),
    "a hook": lambda: hooked(lambda layer: layer.register_forward_hook(lambda *_: None)),
    "a pre-hook": lambda: hooked(lambda layer: layer.register_forward_pre_hook(lambda *_: None)),
    "a backward hook": lambda: hooked(
        lambda layer: layer.register_full_backward_hook(lambda *_: None)
    ),
    "a backward pre-hook": lambda: hooked(
        lambda layer: layer.register_full_backward_pre_hook(lambda *_: None)
    ),
    "a hook of the whole": lambda: hooked(
        lambda net: net.register_forward_hook(lambda *_: None), whole=True
    ),
    "a forward of its own": lambda: hooked(lambda layer: vars(layer).update(forward=abs)),
    "a parametrisation": lambda: nn.Sequential(
        nn.utils.parametrizations.weight_norm(nn.Linear(3, 2))
    ),
}


@pytest.mark.parametrize("name", UNKNOWN)
def test_what_is_not_known_has_no_bound(name):
    assert chain(UNKNOWN[name]()) is None


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(1, 1, 3, padding=1, padding_mode="circular"),
        nn.MaxPool2d(2, dilation=2),
        nn.AvgPool2d(3, ceil_mode=True),
        nn.AvgPool2d(3, padding=1, count_include_pad=False),
        nn.AvgPool2d(2, divisor_override=1),
    ],
    ids=str,
)
def test_unusual_options_have_no_bound(layer):
    assert _norm(layer, torch.zeros(1, 1, 4, 4)) == math.inf


def test_rows_that_are_not_of_classes_have_no_bound():
    """A last layer of one number for each row: [N, K, 1] are logits, of which its weight is one."""
    model, x = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 1)), draw(2, 5, 4)
    assert gradient_bound(chain(model.double()), x).isinf().all()
