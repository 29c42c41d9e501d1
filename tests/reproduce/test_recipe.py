"""Augmentation, optimizers and schedules of a phase, held against what they are by definition."""

import math

import numpy as np
import pytest
import torch

from jacfast import models
from jacfast.reproduce import recipe
from jacfast.reproduce.config import Training


def places(image, crop, padding):
    """Return where `crop` is cut out of `image` with zeros around it, by trying all places."""
    wide = np.pad(image, ((0, 0), (padding, padding), (padding, padding)))
    height, width = image.shape[1:]
    return [
        (top, left)
        for top in range(2 * padding + 1)
        for left in range(2 * padding + 1)
        if np.array_equal(wide[:, top : top + height, left : left + width], crop)
    ]


def test_each_image_is_cropped_from_itself_at_any_place():
    """All channels at one; every place about as often: chi-square, false alarm 1e-6."""
    torch.manual_seed(1)
    x = torch.rand(900, 3, 5, 6)
    before = x.clone()
    counts = dict.fromkeys([(top, left) for top in range(3) for left in range(3)], 0)
    for image, crop in zip(x.numpy(), recipe.random_crop(x, 1).numpy(), strict=True):
        (place,) = places(image, crop, 1)
        counts[place] += 1
    assert sum((count - 100) ** 2 / 100 for count in counts.values()) < 42.7
    assert torch.equal(x, before)


def test_a_wide_padding():
    torch.manual_seed(0)
    x = torch.rand(20, 1, 4, 4) + 1
    for image, crop in zip(x.numpy(), recipe.random_crop(x, 4).numpy(), strict=True):
        assert places(image, crop, 4)


def test_half_of_the_images_are_mirrored():
    """Binomial, 1,000 times 1/2: beyond 5 sd with probability 6e-7."""
    torch.manual_seed(0)
    x = torch.rand(1000, 2, 3, 4)
    mirrored = 0
    for image, out in zip(x.numpy(), recipe.random_flip(x).numpy(), strict=True):
        same, other = np.array_equal(out, image), np.array_equal(out, image[:, :, ::-1])
        assert same or other
        mirrored += other
    assert abs(mirrored - 500) < 5 * math.sqrt(250)


def test_the_loss_is_of_the_moved_images_which_follow_the_global_seed():
    x, y = torch.rand(8, 1, 6, 6), torch.arange(8)
    seen = []
    training = Training(crop_padding=2, horizontal_flip=True)
    loss = recipe.stepped(training, lambda _model, x, _y: seen.append(x))
    for seed in (3, 3, 4):
        torch.manual_seed(seed)
        loss(None, x, y)
    assert torch.equal(seen[0], seen[1])
    assert not torch.equal(seen[0], seen[2])
    for image, out in zip(x.numpy(), seen[0].numpy(), strict=True):
        assert places(image, out, 2) or places(image, out[:, :, ::-1], 2)


def test_without_augmentation_and_in_float32_the_loss_is_as_it_is():
    x, seen = torch.rand(2, 3, 4, 4), []
    recipe.stepped(Training(), lambda _model, x, _y: seen.append(x))(None, x, None)
    assert seen[0] is x


@pytest.mark.parametrize("shape", [(4, 3, 8, 8), (4, 8)])
def test_in_bfloat16_products_are_and_the_gradients_are_not(shape, monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True})
    x, y = torch.rand(*shape), torch.arange(4)
    model = torch.nn.Linear(8, 8) if len(shape) == 2 else torch.nn.Conv2d(3, 8, 3, padding=1)
    seen = []

    def loss(model, x, _y):
        seen.append((x, model(x)))
        return torch.nn.functional.mse_loss(seen[0][1], torch.ones_like(seen[0][1]))

    recipe.stepped(Training(precision="bfloat16"), loss)(model, x, y).backward()
    images, out = seen[0]
    assert out.dtype == torch.bfloat16
    assert torch.equal(images, x)
    assert x.ndim == 2 or images.is_contiguous(memory_format=torch.channels_last)
    assert model.weight.grad.dtype == model.weight.dtype == torch.float32
    assert not torch.is_autocast_enabled("cpu")


@pytest.mark.parametrize(
    ("options", "kind", "group"),
    [
        ({}, torch.optim.Adam, {"lr": 1e-3, "weight_decay": 0}),
        ({"optimizer": "adamw", "weight_decay": 0.05}, torch.optim.AdamW, {"weight_decay": 0.05}),
        (
            {"optimizer": "sgd", "lr": 0.1, "momentum": 0.9, "weight_decay": 5e-4},
            torch.optim.SGD,
            {"lr": 0.1, "momentum": 0.9, "weight_decay": 5e-4},
        ),
    ],
)
def test_optimizers(options, kind, group):
    found = recipe.optimizer(Training(**options), models.fc500().parameters())
    assert type(found) is kind
    assert found.param_groups[0].items() >= group.items()


def rates(steps, **options):
    """Return the step size of each step."""
    training = Training(optimizer="sgd", lr=0.4, **options)
    optimizer = recipe.optimizer(training, [torch.nn.Parameter(torch.zeros(1))])
    scheduler = recipe.scheduler(training, optimizer, steps)
    found = []
    for _ in range(steps):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        if scheduler is not None:
            scheduler.step()  # also after the last, as `fit` does
    return found


def test_schedules():
    assert rates(3) == [0.4] * 3
    cosine = [0.2 * (1 + math.cos(math.pi * t / 10)) for t in range(10)]
    assert rates(10, schedule="cosine") == pytest.approx(cosine)
    cycle = rates(100, schedule="one-cycle")
    top = cycle.index(max(cycle))
    assert max(cycle) == pytest.approx(0.4)
    assert top == 29  # three tenths of them
    assert cycle[: top + 1] == sorted(cycle[: top + 1])
    assert cycle[top:] == sorted(cycle[top:], reverse=True)
    assert cycle[0] == pytest.approx(0.4 / 25)
    assert cycle[-1] < 1e-5


FLAGS = [
    ({"avx512_bf16": False, "amx_bf16": False}, False),
    ({"avx512_bf16": True, "amx_bf16": False}, True),
    ({"bf16": True, "sve_bf16": False}, True),
    ({"avx2": True}, True),  # it is not known
]


@pytest.mark.parametrize(("flags", "has"), FLAGS)
def test_products_are_in_bfloat16_where_there_are_instructions(flags, has, monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: flags)
    model, seen = torch.nn.Conv2d(3, 8, 3), []
    step = recipe.stepped(Training(precision="bfloat16"), lambda m, x, _y: seen.append((x, m(x))))
    step(model, torch.rand(2, 3, 8, 8), None)
    images, out = seen[0]
    assert out.dtype == (torch.bfloat16 if has else torch.float32)
    assert images.is_contiguous(memory_format=torch.channels_last)
    phases = [None, Training(), Training(precision="bfloat16")]
    cpu = torch.device("cpu")
    assert recipe.precision(phases, cpu) == ("bfloat16" if has else "float32")
    assert recipe.precision(phases[:2], cpu) is None


@pytest.mark.parametrize("has", [False, True])
def test_of_a_gpu_emulation_does_not_count(has, monkeypatch):
    def supported(including_emulation=True):
        return has or including_emulation

    monkeypatch.setattr(torch.cuda, "is_bf16_supported", supported)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": not has})
    assert recipe.has_bfloat16(torch.device("cuda:1")) == has
