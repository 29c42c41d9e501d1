"""Whether a model is one of a data set's images."""

import pytest
import torch
from torch import nn

from jacfast import data, models


def split_of(*shape: int, classes: int) -> data.Split:
    x, y = torch.ones(2, *shape), torch.zeros(2, dtype=torch.int64)
    return data.Split(x, y, x, y, classes, "ones")


@pytest.mark.parametrize(
    ("model", "rule"),
    [
        (models.mlp(9, 5), r"accept images of shape \[1, 2, 2\]; got RuntimeError: .*mat1"),
        (nn.Conv2d(3, 5, 1), r"accept images of shape \[1, 2, 2\]; got RuntimeError"),
        (models.mlp(4, 3), r"return \[N, K\] logits with K >= 4 classes; got \[1, 3\]"),
        (nn.Conv2d(1, 5, 1), r"return \[N, K\] logits with K >= 4 classes; got \[1, 5, 2, 2\]"),
        (
            models.mlp(4, 5).double(),
            r"accept images of shape \[1, 2, 2\], torch.float32 \(let the factory return one that "
            r"casts them to torch.float64\); got RuntimeError: .*mat1",
        ),
        (nn.Sequential(nn.Flatten(), nn.RNN(4, 5)), "return a tensor of logits, .*; got tuple of"),
    ],
)
def test_a_model_for_another_data_set(model, rule):
    with pytest.raises(ValueError, match=f"model must {rule}"):
        models.check_fits(model, split_of(1, 2, 2, classes=4))


def test_a_model_that_fits_is_left_as_it_was():
    split = split_of(1, 2, 2, classes=4)
    model = nn.Sequential(nn.ReLU(inplace=True), nn.BatchNorm2d(1), models.mlp(4, 6))
    split.test_x.neg_()
    assert models.check_fits(model, split) == 6
    assert bool((split.test_x == -1).all())
    assert model[1].training
    assert int(model[1].num_batches_tracked) == 0


@pytest.mark.parametrize("norm", [nn.BatchNorm1d, nn.BatchNorm2d])
def test_batch_norm_that_couples_the_images_is_refused(norm):
    layer, split = norm(6, track_running_stats=False), split_of(1, 2, 2, classes=4)
    layers = [models.mlp(4, 6), layer] if norm is nn.BatchNorm1d else [layer, models.mlp(4, 6)]
    words = r"model must keep images apart; its batch-norm .* take another normalisation$"
    with pytest.raises(ValueError, match=words):
        models.check_fits(nn.Sequential(*layers), split)


def test_what_the_model_says_of_an_image_is_passed_on():
    split = split_of(1, 2, 2, classes=4)
    model = nn.Sequential(models.mlp(9, 6), nn.BatchNorm1d(6))
    with pytest.raises(ValueError, match=r"shapes cannot be multiplied \(1x4 and 9x6\)$"):
        models.check_fits(model, split)
