"""Which models may be cut, and into how many parts."""

import copy

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, spectral_norm, weight_norm

import jacfast
from jacfast import models
from jacfast.calling import part_of, parts, separable, tree
from jacfast.lean import mode
from jacfast.step import plain


class Own(nn.Linear):
    """Any class of one's own, whatever it does."""


def hooked(kind: str) -> nn.Module:
    model = nn.Sequential(nn.Linear(6, 5))
    getattr(model[0], f"register_{kind}_hook")(lambda *_: None)
    return model


def instance() -> nn.Module:
    model = nn.Sequential(nn.Linear(6, 5))
    model[0].forward = nn.Linear(6, 5).forward
    return model


UNKNOWN = {
    "own": lambda: nn.Sequential(Own(6, 5)),
    "hooked": lambda: hooked("forward"),
    "hooked before": lambda: hooked("forward_pre"),
    "hooked backwards": lambda: hooked("full_backward"),
    "hooked before, backwards": lambda: hooked("full_backward_pre"),
    "a forward of the instance": instance,
    "spectral norm": lambda: spectral_norm(nn.Linear(6, 5)),
    "spectral norm by parametrization": lambda: parametrizations.spectral_norm(nn.Linear(6, 5)),
    "weight norm": lambda: weight_norm(nn.Linear(6, 5)),
    "alpha dropout": lambda: nn.AlphaDropout(),
    "rrelu": lambda: nn.RReLU(),
    "batch norm": lambda: nn.BatchNorm1d(6),
    "batch norm without statistics": lambda: nn.BatchNorm1d(6, track_running_stats=False).eval(),
    "instance norm": lambda: nn.InstanceNorm2d(6, track_running_stats=True),
    "softmax over the batch": lambda: nn.Softmax(dim=0),
    "flattened batch": lambda: nn.Flatten(0),
    "layer norm of the batch": lambda: nn.LayerNorm([4, 6]),
    "recurrent": lambda: nn.LSTM(6, 5),
    "two tensors": lambda: nn.MaxPool1d(2, return_indices=True),
    "lazy": lambda: nn.LazyLinear(5),
}


@pytest.mark.parametrize("name", UNKNOWN)
def test_what_is_not_certain_is_called_once(name):
    assert not separable(tree(nn.Sequential(nn.Flatten(), UNKNOWN[name](), nn.ReLU())))


def test_the_networks_of_the_papers_can_be_cut():
    for make in (models.tf_tutorial_cnn, models.cifar_cnn, models.seck_c, models.yu_cifar_cnn):
        assert separable(tree(make()))
        assert separable(tree(copy.deepcopy(make().eval())))


def test_every_layer_of_the_list_takes_samples_alone():
    """In parts of any order the outputs are those of the whole."""
    torch.manual_seed(0)
    x = torch.randn(6, 3, 8, 8)
    layers = [
        *(nn.Conv2d(3, 4, 3), nn.ConvTranspose2d(3, 4, 3), nn.GroupNorm(3, 3), nn.LayerNorm(8)),
        *(nn.BatchNorm2d(3).eval(), nn.InstanceNorm2d(3, track_running_stats=True).eval()),
        *(nn.PReLU(3), nn.AdaptiveAvgPool2d(2), nn.AdaptiveMaxPool2d(2), nn.ZeroPad2d(1)),
        *(nn.Dropout().eval(), nn.Flatten(), nn.Linear(8, 2), nn.Softplus(), nn.MaxPool2d(2)),
    ]
    order = torch.randperm(6)
    for layer in layers:
        assert separable(tree(nn.Sequential(layer)))
        whole = layer(x)
        parts = torch.cat([layer(part) for part in x[order].split(2)])
        torch.testing.assert_close(parts, whole[order])


def test_a_global_hook():
    model = nn.Sequential(nn.Linear(6, 5))
    handle = nn.modules.module.register_module_forward_hook(lambda *_: None)
    assert not separable(tree(model))
    handle.remove()
    assert separable(tree(model))


def test_parts_follow_from_the_size_of_the_activations():
    """Not from the kind of layer: 2^24 bytes over those of the largest tensor of one sample."""
    tutorial, cifar = models.tf_tutorial_cnn().eval(), models.cifar_cnn().eval()
    assert part_of(tutorial, torch.zeros(500, 1, 28, 28)) == 2**24 // (32 * 28 * 28 * 4)
    assert part_of(cifar, torch.zeros(128, 3, 32, 32)) == 128
    assert part_of(cifar, torch.zeros(500, 3, 32, 32)) == 2**24 // (32 * 32 * 32 * 4)
    assert part_of(models.seck_c(), torch.zeros(500, 1, 28, 28)) == 500
    wide = nn.Sequential(nn.Linear(4, 1 << 15), nn.ReLU(), nn.Linear(1 << 15, 3))
    assert part_of(wide, torch.zeros(500, 4)) == 128
    assert part_of(wide, torch.zeros(500, 4, device="meta")) == 500  # as on a GPU
    wider = nn.Sequential(nn.Linear(4, 1 << 19), nn.ReLU(), nn.Linear(1 << 19, 3))
    assert part_of(wider, torch.zeros(500, 4)) == 32


def test_each_size_of_images_has_its_parts_and_x_itself_counts():
    model = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.ReLU())
    for size, part in ((28, 500), (64, 2**24 // (8 * 64 * 64 * 4))):
        x = torch.zeros(500, 1, size, size)
        assert part_of(model, x) == part
        assert parts.entries_of(model, x) == 500 * 8 * size * size
    narrow, x = nn.Sequential(nn.Linear(1 << 16, 3)), torch.zeros(500, 1 << 16)
    assert part_of(narrow, x) == 2**24 // (4 << 16)
    assert parts.entries_of(narrow, x) == x.numel()


@pytest.mark.parametrize(
    ("layer", "entries"),
    [
        (nn.Conv2d(2, 6, 5), 6 * 9 * 9),  # as if padded
        (nn.Conv2d(2, 6, 3, stride=(2, 1), padding=1), 6 * 5 * 9),
        (nn.Conv2d(2, 8, 3, groups=2), 8 * 9 * 9),
    ],
)
def test_a_convolution_has_as_many_entries_as_when_a_lean_layer_is_chosen(
    layer, entries, monkeypatch
):
    """Else a step with lean layers is taken plain, or one without them is not."""
    model, x = nn.Sequential(layer, nn.ReLU(), nn.Flatten()), torch.rand(4, 2, 9, 9)
    asked = []
    monkeypatch.setattr(mode.Lean, "pays", lambda _, entries: asked.append(entries))
    monkeypatch.setattr(plain, "is_cheaper", lambda *_: False)
    jacfast.forward_with_penalty(model, x)
    assert parts.entries_of(model, x) == max(asked) == 4 * entries
