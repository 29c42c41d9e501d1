"""jacfast plot: every picture from files, and what is said when it cannot be drawn."""

import io

import pytest
import torch
from matplotlib.image import imread

from jacfast import cli, data, models
from jacfast.commands import pictures
from jacfast.commands.plot import NAMES
from jacfast.training import fit


@pytest.fixture(scope="module")
def digits():
    return data.load(None)


@pytest.fixture(autouse=True)
def read_once(digits, monkeypatch):
    monkeypatch.setattr(data, "load", lambda folder: digits)


@pytest.fixture(scope="module")
def folder(tmp_path_factory, digits):
    """Return a folder with two little networks that know most digits, and one for nines only."""
    here = tmp_path_factory.mktemp("plot")
    for name, epochs in (("plain", 2), ("other", 1), ("nines", 0)):
        torch.manual_seed(0)
        model = models.deep_defense_mlp()
        loss = lambda m, x, y: torch.nn.functional.cross_entropy(m(x), y)  # noqa: E731
        options = {"batch_size": 50, "lr": 1e-3, "loss": loss}
        fit(model, digits.train_x[:2000], digits.train_y[:2000], epochs=epochs, **options)
        if name == "nines":
            model[-1].bias.data[9] = 1e3
        torch.save(model.state_dict(), here / f"{name}.pt")
    return here


def run(folder, name, *options):
    model = ["--model", "jacfast.models:deep_defense_mlp", "--weights", str(folder / "plain.pt")]
    out = ["--out", str(folder / f"{name}.png"), "--samples", "50"]
    return cli.main(["plot", name, *model, *out, *options])


@pytest.mark.parametrize("name", NAMES)
def test_every_picture_of_two_models(folder, name, capsys, monkeypatch):
    monkeypatch.setattr(pictures, "SPECTRA", 1)
    assert run(folder, name, "--against", str(folder / "other.pt")) == 0
    pixels = imread(io.BytesIO((folder / f"{name}.png").read_bytes()))
    assert pixels.shape[1] == 1350
    assert pixels[..., :3].std() > 0.02
    assert f"{name} of plain and other on MNIST digits" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["cells", "jacobians", "decision"])
def test_of_one_model(folder, name):
    assert run(folder, name) == 0


def test_the_names_are_those_of_the_pictures():
    assert NAMES.keys() == pictures.PICTURES.keys()


def test_unknown_names_list_the_known_ones(capsys):
    with pytest.raises(SystemExit) as caught:
        cli.main(["plot", "landscape", "--model", "m", "--weights", "w", "--out", "o"])
    assert caught.value.code == 2
    said = capsys.readouterr().err
    assert "landscape" in said
    for name in NAMES:
        assert name in said


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--samples", "0"], "--samples must be >= 1; got 0"),
        (["--out", "/nowhere/at/all.png"], "--out must be in a folder that exists"),
        (["--image", "50"], "--image must be below 50 and one that every model classifies"),
        (["--against", "missing.pt"], "missing.pt are not there"),
    ],
)
def test_errors(folder, options, message, capsys):
    assert run(folder, "cells", *options) == 2
    assert message in capsys.readouterr().err


def test_a_model_that_knows_none_of_the_images(folder, capsys):
    arguments = ["--model", "jacfast.models:deep_defense_mlp", "--samples", "2"]
    weights = ["--weights", str(folder / "nines.pt"), "--out", str(folder / "u.png")]
    assert cli.main(["plot", "jacobians", *arguments, *weights]) == 2
    assert "no test image is classified correctly by every model" in capsys.readouterr().err


def test_names_of_equal_files_are_told_apart(folder, capsys):
    again = folder / "again"
    again.mkdir()
    (again / "plain.pt").write_bytes((folder / "plain.pt").read_bytes())
    assert run(folder, "cells", "--against", str(again / "plain.pt")) == 0
    assert f"{folder / 'plain.pt'} and {again / 'plain.pt'}" in capsys.readouterr().out
