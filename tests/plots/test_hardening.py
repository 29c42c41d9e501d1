"""The picture: drawn for grey and colour images, and where there is little to show."""

import io

import pytest
import torch
from matplotlib.image import imread

from jacfast import deepfool, models
from jacfast.plots import hardening_figure, png


def results(channels: int, samples: int = 8):
    torch.manual_seed(0)
    x = torch.rand(samples, channels, 8, 8)
    nets = [models.mlp(64 * channels, 16, 4).eval() for _ in range(2)]
    found = [deepfool(net, x) for net in nets]
    return x, found


@pytest.mark.parametrize("channels", [1, 3])
def test_drawn(channels):
    x, (before, after) = results(channels)
    y = before.before
    picture = png(hardening_figure(x, y, before, after))
    pixels = imread(io.BytesIO(picture))
    assert pixels.shape[1] == 1430
    assert pixels[..., :3].std() > 0.05  # not a blank page


def test_nothing_classified_correctly_is_said():
    x, (before, after) = results(1)
    wrong = (before.before + 1) % 4
    wrong = torch.where(wrong == after.before, (wrong + 1) % 4, wrong)
    figure = hardening_figure(x, wrong, before, after)
    said = figure.subfigs[0].get_suptitle()
    assert said == "no image is classified correctly and fooled by every model"
    assert imread(io.BytesIO(png(figure))).shape[1] == 1430


def test_the_norm_is_named():
    x, (before, _) = results(1)
    most = deepfool(models.mlp(64, 16, 4).eval(), x, p=float("inf"))
    figure = hardening_figure(x, before.before, most, most)
    said = figure.subfigs[1].axes[0].get_xlabel()
    assert said == "||r|| / ||x|| in the inf-norm, DeepFool (last bar: all beyond)"
    with pytest.raises(ValueError, match=r"results must all be in one norm p; got \[2.0, inf\]"):
        hardening_figure(x, before.before, before, most)


def test_images_without_a_ratio_are_left_out_and_counted():
    x, _ = results(1)
    x[0] = 0
    nets = [models.mlp(64, 16, 4).eval() for _ in range(2)]
    before, after = (deepfool(net, x) for net in nets)
    figure = hardening_figure(x, before.before, before, after)
    labels = [text.get_text() for text in figure.subfigs[1].axes[0].get_legend().get_texts()]
    mean = float((before.norm / x.flatten(1).norm(dim=1))[1:].mean())
    assert labels[0] == f"before: mean (rho_adv) {mean:.3f}, 1 without left out"
