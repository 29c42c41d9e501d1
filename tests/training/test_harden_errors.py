"""What harden refuses, before it costs anything."""

import importlib
import sys

import pytest
import torch
from torch import nn

from jacfast import models
from jacfast.training import harden as module
from jacfast.training.harden import harden
from jacfast.training.options import Harden
from tests.data.files import write_mnist
from tests.forked import completed
from tests.training.runs import called, harden_arguments


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weights": "none.pt"}, "--weights: must be a file that is there; got none.pt"),
        ({"weights": "other.pt"}, "weights other.pt must fit the model: missing 4.weight"),
        ({"model": "nets:nothing"}, "model 'nets:nothing' cannot be imported"),
        ({"data": "."}, "looked for MNIST"),
        ({"epochs": 0}, "--epochs: must be >= 1; got 0"),
        ({"lam": -1}, "lam must be finite and >= 0; got -1.0"),
        ({"n": 11}, "n must be in 1 .. K = 10, or 'exact'; got 11"),
    ],
)
def test_errors_of_the_user_are_one_line(job, options, message):
    failed = called(job, *harden_arguments("failed", **options))
    assert failed.returncode == 2
    assert message in failed.stderr
    assert not (job / "failed").exists()  # no checkpoint: found before; and nothing left behind


def test_a_folder_that_cannot_be_written_is_found_first(job):
    (job / "file").write_text("not a folder")
    failed = called(job, *harden_arguments("file/out"))
    assert failed.returncode == 2
    assert "file/out" in failed.stderr


def test_model_without_weights(job):
    arguments = [a for a in harden_arguments("failed") if not a.startswith("--weights")]
    assert "model and weights go together" in called(job, *arguments).stderr


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        (TypeError, {"n": "foo"}, "n must be an integer, or 'exact'; got 'foo'"),
        (TypeError, {"n": 1.5}, "n must be an integer, or 'exact'; got 1.5"),
        (TypeError, {"lam": "a"}, "lam must be a number; got str"),
        (TypeError, {"eval_samples": 2.5}, "eval_samples must be an integer; got 2.5"),
        (TypeError, {"chunk_size": 2.5}, "chunk_size must be an integer; got 2.5"),
        (TypeError, {"seed": 1.5}, "seed must be an integer; got 1.5"),
        (ValueError, {"seed": 2**70}, "seed must be <= 2"),
        (ValueError, {"zero": True}, "test images must not be all zero .* the image at 3 is"),
        (ValueError, {"frozen": True}, "model must have a parameter with requires_grad"),
    ],
)
def test_bad_input_is_found_before_any_work(tmp_path, monkeypatch, kind, options, message):
    write_mnist(tmp_path / "data", train=40, test=20)
    if options.pop("zero", False):
        file = tmp_path / "data" / "t10k-images-idx3-ubyte"
        content = file.read_bytes()
        start, end = 16 + 3 * 784, 16 + 4 * 784
        file.write_bytes(content[:start] + bytes(784) + content[end:])
    if options.pop("frozen", False):
        net = models.mlp(784, 10).requires_grad_(False)
        monkeypatch.setattr(models, "tf_tutorial_cnn", lambda: net)
    for work in ("measure", "fit"):
        monkeypatch.setattr(module, work, lambda *_, **__: pytest.fail("work was done"))
    with pytest.raises(kind, match=message):
        harden(Harden(tmp_path / "out", data=tmp_path / "data", **options))


def test_model_for_other_images(tmp_path, monkeypatch):
    write_mnist(tmp_path)
    monkeypatch.setattr(models, "tf_tutorial_cnn", lambda: models.mlp(99, 10))
    with pytest.raises(ValueError, match=r"must accept images of shape \[1, 28, 28\]"):
        harden(Harden(tmp_path / "out", data=tmp_path))


def test_a_model_that_cannot_be_trained(tmp_path, monkeypatch):
    """Whatever it raises: here a KeyError where there are gradients."""

    class Lacks(nn.Linear):
        def forward(self, x):
            return super().forward(x.flatten(1)) * {False: 1.0}[torch.is_grad_enabled()]

    write_mnist(tmp_path)
    monkeypatch.setattr(models, "tf_tutorial_cnn", lambda: Lacks(784, 10))
    words = "model must be one that can be trained; a step with the penalty on two images raised"
    with pytest.raises(ValueError, match=f"{words} KeyError: True"):
        harden(Harden(tmp_path / "out", data=tmp_path))


def import_without_matplotlib():
    drawing = ("matplotlib", "jacfast.plots", "jacfast.training.harden")
    for name in [name for name in sys.modules if name.startswith(drawing)]:
        del sys.modules[name]
    sys.modules["matplotlib"] = None
    importlib.import_module("jacfast.training.harden")


def test_without_matplotlib_there_is_no_training():
    """Its absence is found when the job is imported, before the work, and said in words."""
    done = completed(import_without_matplotlib)
    assert done.returncode == 1
    assert done.stderr.endswith("jacfast.plots needs matplotlib: run pip install 'jacfast[demo]'\n")
