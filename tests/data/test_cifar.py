"""The CIFAR readers: right on files of every age, and nothing in a pickle is ever run."""

import codecs
import os
import pickle
import subprocess
from typing import Any

import numpy as np
import pytest
import torch

from jacfast.data import load_cifar10, load_cifar100
from jacfast.data.cifar import CIFAR10, CIFAR100
from tests.data.files import cifar_batch, python2_pickle, write_cifar

BATCH = cifar_batch(CIFAR100, seed=7)


@pytest.fixture
def train(tmp_path):
    """Write CIFAR-100 into tmp_path and return the path of its training file."""
    write_cifar(tmp_path, CIFAR100)
    return tmp_path / "train"


@pytest.mark.parametrize("child", ["", "cifar-10-batches-py"])
def test_cifar10(tmp_path, child):
    write_cifar(tmp_path / child, CIFAR10)
    split = load_cifar10(tmp_path)
    batches = [cifar_batch(CIFAR10, seed) for seed in range(6)]
    pixels = np.concatenate([batch[b"data"] for batch in batches]).astype(np.float32)
    images = torch.from_numpy(pixels).div(255).view(30, 3, 32, 32)  # red, green, blue planes
    assert torch.equal(split.train_x, images[:25])
    assert torch.equal(split.test_x, images[25:])
    assert split.train_y.dtype == torch.int64
    labels = torch.tensor([batch[b"labels"] for batch in batches])
    assert torch.equal(split.train_y, labels[:5].flatten())
    assert torch.equal(split.test_y, labels[5])
    assert (split.classes, split.name) == (10, "CIFAR-10")


def test_cifar100_has_fine_labels(tmp_path):
    split = load_cifar100(write_cifar(tmp_path / "cifar-100-python", CIFAR100).parent)
    assert split.train_y.tolist() == cifar_batch(CIFAR100, seed=0)[b"fine_labels"]
    assert split.test_y.tolist() == cifar_batch(CIFAR100, seed=1)[b"fine_labels"]
    assert (split.classes, split.name) == (100, "CIFAR-100")


def named(content: bytes, module: bytes) -> bytes:
    """Return a protocol-2 pickle with numpy's inner module under another name."""
    return content.replace(b"numpy._core.", b"numpy.core.").replace(b"numpy.core.", module)


@pytest.mark.parametrize(
    ("content", "mark"),
    [
        (python2_pickle(BATCH), b"cnumpy.core.multiarray\n"),
        (named(pickle.dumps(BATCH, 2), b"numpy.core."), b"cnumpy.core.multiarray\n"),
        (named(pickle.dumps(BATCH, 2), b"numpy._core."), b"cnumpy._core.multiarray\n"),
        (pickle.dumps(BATCH, 4), b"\x80\x04"),
    ],
    ids=["python 2", "numpy 1", "numpy 2", "protocol 4"],
)
def test_files_of_every_age(train, content, mark):
    assert mark in content
    train.write_bytes(content)
    split = load_cifar100(train.parent)
    assert (split.train_x * 255).round().flatten(1).tolist() == BATCH[b"data"].tolist()
    assert split.train_y.tolist() == BATCH[b"fine_labels"]


class Call:
    """Pickled as a call of a function with arguments, then perhaps a change of its result."""

    def __init__(self, *call: Any) -> None:
        self.call = call

    def __reduce__(self) -> tuple:
        return self.call


@pytest.mark.parametrize("protocol", [0, 2, 4])
@pytest.mark.parametrize(
    ("function", "name"), [(os.system, "system"), (subprocess.check_output, "check_output")]
)
def test_nothing_in_a_pickle_is_run(train, function, name, protocol, monkeypatch):
    monkeypatch.chdir(train.parent)
    content = pickle.dumps({b"data": Call(function, ("echo > ran",))}, protocol)
    if function is os.system:  # the bait works: pickle itself does run it
        pickle.loads(content)
        os.remove("ran")
    train.write_bytes(content)
    with pytest.raises(ValueError, match=rf"asks for \w+\.{name}, which no CIFAR file needs"):
        load_cifar100(train.parent)
    assert not os.path.exists("ran")


@pytest.mark.parametrize("function", [eval, getattr, np.load, np.frombuffer, codecs.decode])
def test_functions_of_admitted_modules_and_builtins_are_refused(train, function):
    train.write_bytes(pickle.dumps({b"data": Call(function, ("1", "2"))}, 2))
    with pytest.raises(ValueError, match=rf"asks for .*{function.__name__}, which no CIFAR"):
        load_cifar100(train.parent)


def test_only_text_codecs_are_admitted(train):
    """_codecs.encode would import and run any codec by name; only text encodings are needed."""
    train.write_bytes(pickle.dumps({b"data": Call(codecs.encode, ("abc", "rot13"))}, 2))
    with pytest.raises(ValueError, match="'rot13' is not a text encoding"):
        load_cifar100(train.parent)


@pytest.mark.parametrize("target", [b"numpy\nndarray", b"numpy\ndtype", b"_codecs\nencode"])
def test_a_pickle_cannot_change_what_it_may_name(train, target):
    """The opcode BUILD sets attributes on any object that is open to it."""
    change = pickle.dumps((None, {"changed": 1}), 2)[2:-1]
    train.write_bytes(b"\x80\x02c" + target + b"\n" + change + b"b.")
    with pytest.raises(ValueError, match="must be a pickle with data and fine_labels"):
        load_cifar100(train.parent)
    assert not any(hasattr(thing, "changed") for thing in (np.ndarray, np.dtype, str.encode))


def contents(data: object, labels: object) -> bytes:
    return pickle.dumps({b"data": data, b"fine_labels": labels}, 2)


BLACK = np.zeros((1, 3072), np.uint8)


@pytest.mark.parametrize(
    ("content", "rule"),
    [
        (b"", "must be a pickle with data and fine_labels, as published; got EOFError"),
        (pickle.dumps(BATCH, 2)[:-99], "must be a pickle with data and fine_labels"),
        (pickle.dumps([1, 2]), "must be a pickle with data and fine_labels"),
        (pickle.dumps(cifar_batch(CIFAR10), 2), "got KeyError: b'fine_labels'"),
        (contents(BLACK, [1, 2]), r"uint8 data of shape \[2, 3072\]; got uint8 \[1, 3072\]"),
        (contents(BLACK[:, :3], [1]), r"shape \[1, 3072\]; got uint8 \[1, 3\]"),
        (contents(BLACK.astype(np.float64), [1]), "must hold uint8 data .*; got float64"),
        (contents(BLACK, ["cat"]), "must hold a list of integer labels; got <U3"),
        (contents(BLACK, [0.5]), "must hold a list of integer labels; got float64"),
        (contents(BLACK, 1), r"must hold a list of integer labels; got int64 \[\]"),
        (contents(BLACK, [100]), r"labels in 0 \.\. 99; got 0 \.\. 100"),
        (contents(BLACK, [-1]), r"labels in 0 \.\. 99; got -1 \.\. 0"),
    ],
)
def test_damaged_files_are_refused_in_words(train, content, rule):
    train.write_bytes(content)
    with pytest.raises(ValueError, match=rule) as caught:
        load_cifar100(train.parent)
    assert str(train) in str(caught.value)


@pytest.mark.parametrize("child", ["", "cifar-10-batches-py"])
def test_missing_parts_are_listed(tmp_path, child):
    write_cifar(tmp_path / child, CIFAR10)
    for name in ("data_batch_1", "test_batch"):
        (tmp_path / child / name).unlink()
    with pytest.raises(FileNotFoundError, match=r"CIFAR-10; missing data_batch_1, test_batch$"):
        load_cifar10(tmp_path)
