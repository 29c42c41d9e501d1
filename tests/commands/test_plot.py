"""jacfast plot: every picture from files, and what is said when it cannot be drawn."""

import io

import pytest
import torch
from matplotlib.image import imread

from jacfast import cli, models
from jacfast.commands import pictures
from jacfast.commands.plot import AROUND, NAMES

pytestmark = pytest.mark.usefixtures("read_once")


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


@pytest.mark.parametrize("name", ["cells", "jacobians", "decision", "line", "hessians"])
def test_of_one_model(folder, name):
    assert run(folder, name) == 0


@pytest.mark.parametrize("name", NAMES)
def test_the_image_is_taken_or_refused(folder, name, capsys):
    assert run(folder, name, "--image", "-5") == 2
    said = capsys.readouterr().err
    if name.removesuffix("-relief") in AROUND:
        assert "--image must be below 50 and one that every model classifies correctly" in said
    else:
        assert f"--image must be left out: {name} is not of one image; got -5" in said


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
        (["--samples", "0"], "--samples: must be >= 1; got 0"),
        (["--out", "a.pdf"], "--out must be the name of a PNG; got a.pdf"),
        (["--out", "/nowhere/at/all.png"], "--out: must be a file in a folder that is there; got"),
        (
            ["--out", "/proc/a.png"],
            "--out: must be where files can be made; got /proc/a.png (/proc",
        ),
        (["--samples", "9" * 20], f"--samples: must be <= 2^63 - 1; got {'9' * 20}"),
        (["--image", "50"], "--image must be below 50 and one that every model classifies"),
        (["--against", "no.pt"], "--against: must be a file that is there; got no.pt"),
    ],
)
def test_errors(folder, options, message, capsys):
    try:
        status = run(folder, "cells", *options)
    except SystemExit as refused:  # by the parser
        status = refused.code
    assert status == 2
    assert message in capsys.readouterr().err


def test_a_folder_for_the_picture_is_refused_before_any_work(folder, tmp_path, capsys):
    with pytest.raises(SystemExit):
        run(folder, "cells", "--out", str(tmp_path), "--weights", __file__)
    words = f"--out: must be a file in a folder that is there; got {tmp_path}"
    assert words in capsys.readouterr().err


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
    assert f"1: {folder / 'plain.pt'} and 2: {again / 'plain.pt'}" in capsys.readouterr().out
    assert run(folder, "cells", "--against", str(folder / "plain.pt")) == 0
    assert f"1: {folder / 'plain.pt'} and 2: {folder / 'plain.pt'}" in capsys.readouterr().out


def test_one_class_has_no_roc(folder, capsys):
    assert run(folder, "roc", "--samples", "1") == 2
    assert "--samples must take in two classes; the first 1 images" in capsys.readouterr().err


def test_a_model_for_other_images(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(models, "odd", lambda: models.mlp(100, 10), raising=False)
    torch.save(models.mlp(100, 10).state_dict(), tmp_path / "w.pt")
    arguments = ["--model", "jacfast.models:odd", "--weights", str(tmp_path / "w.pt"), "--out"]
    for command in (["plot", "cells"], ["attack", "fgsm", "--eps", "0.1"]):
        assert cli.main([*command, *arguments, str(tmp_path / "out")]) == 2
        assert "model must accept images of shape [1, 28, 28]; got" in capsys.readouterr().err
