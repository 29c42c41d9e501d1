"""jacfast report: the files and figures are those of the function."""

import functools
import inspect
import json
import re

import pytest
import torch

import jacfast
from jacfast import cli, data, models, robustness_report
from jacfast.commands.attack import EVERY
from jacfast.commands.signature import check_options
from tests.data.files import write_mnist


@pytest.fixture
def given(tmp_path):
    write_mnist(tmp_path / "data", train=20, test=40)
    torch.manual_seed(0)
    model = models.deep_defense_mlp().eval()
    torch.save(model.state_dict(), tmp_path / "w.pt")
    return model, tmp_path


def command(folder, *words):
    model = ["--model", "jacfast.models:deep_defense_mlp", "--weights", str(folder / "w.pt")]
    out = ["--data", str(folder / "data"), "--out", str(folder / "new" / "out")]
    return cli.main(["report", *model, *out, *words])


def test_figures_are_those_of_the_function(given, capsys):
    model, folder = given
    words = ("--samples", "30", "--p", "inf", "--eps", "4/255,0.05", "--budget", "20")
    words += ("--steps", "5", "--restarts", "2", "--seed", "3", "--batch-size", "7", "--json")
    assert command(folder, *words) == 0
    said = json.loads(capsys.readouterr().out)
    split = data.load(folder / "data")
    want = jacfast.robustness_report(
        model,
        split.test_x[:30],
        split.test_y[:30],
        p=torch.inf,
        eps=(4 / 255, 0.05),
        budget=20,
        steps=5,
        restarts=2,
        batch_size=7,
        generator=torch.Generator().manual_seed(3),
    )
    assert {key: said[key] for key in want.to_dict()} == want.to_dict()
    assert said["model"] == "jacfast.models:deep_defense_mlp"
    out = folder / "new" / "out"
    assert json.loads((out / "figures.json").read_text()) == want.to_dict()
    assert {path.name for path in out.iterdir()} == {
        "figures.json",
        "report.html",
        "robustness.png",
    }


def test_random_starts_follow_the_seed(given, monkeypatch):
    seeds = []

    @functools.wraps(robustness_report)
    def watched(*arguments, generator=None, **options):
        if generator is not None:
            seeds.append(generator.initial_seed())
        return robustness_report(*arguments, generator=generator, **options)

    monkeypatch.setattr("jacfast.robustness.robustness_report", watched)
    words = ("--budget", "10", "--steps", "2", "--restarts", "1", "--quiet")
    assert command(given[1], "--seed", "3", *words) == 0
    assert seeds == [3]


def test_a_folder_that_cannot_be_made_is_refused_before_any_attack(given, monkeypatch, capsys):
    (given[1] / "new").write_text("a file")

    def attacked(*_, generator=None, **options):
        assert generator is None  # the options alone are looked at

    monkeypatch.setattr("jacfast.robustness.robustness_report", attacked)
    with pytest.raises(SystemExit):
        command(given[1], "--quiet")
    assert re.search(
        "--out: must be where files can be made; got .*new/out", capsys.readouterr().err
    )


def test_the_table_is_printed(given, capsys):
    assert command(given[1], "--budget", "10", "--steps", "2", "--restarts", "1", "--quiet") == 0
    said = capsys.readouterr()
    assert "Signs of masked gradients" in said.out
    assert "written: " in said.out
    assert said.err == ""


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--budget", "3"], "jacfast: --budget must be >= 5; got 3"),
        (["--p", "3"], "jacfast: --p must be one of 2, inf; got 3"),
        (["--eps", "0"], "jacfast: --eps must be finite and > 0; got 0"),
        (["--seed", "9" * 20], f"jacfast: --seed must be <= 2^64 - 1; got {'9' * 20}"),
        (["--seed", f"-{2**63 + 1}"], "jacfast: --seed must be >= -9223372036854775808; got"),
    ],
)
def test_options_are_checked_before_model_and_data_are_loaded(words, message, capsys, monkeypatch):
    for work in ("models.load_factory", "data.load"):
        monkeypatch.setattr(f"jacfast.{work}", lambda *_: pytest.fail("it was loaded"))
    classifier = ["--model", "a:b", "--weights", __file__, "--out", "there"]
    assert cli.main(["report", *classifier, *words]) == 2
    assert message in capsys.readouterr().err


def test_help_names_every_argument(capsys):
    with pytest.raises(SystemExit):
        cli.main(["report", "--help"])
    said = capsys.readouterr().out
    for option in ("eps", "p", "budget", "steps", "restarts", "clip", "seed", "samples", "mean"):
        assert re.search(rf"  --{option}(?![\w-])", said), option  # and no longer one


FEW = ("--budget", "10", "--steps", "2", "--restarts", "1", "--samples", "10", "--quiet")


def test_the_files_of_another_run_are_not_overwritten(given, capsys):
    """`jacfast harden` writes a report.html and a figures.json, too."""
    folder = given[1]
    out = folder / "new" / "out"
    out.mkdir(parents=True)
    for name in ("figures.json", "report.html", "hardened.pt"):
        (out / name).write_text("of harden")
    assert command(folder, *FEW) == 2
    assert "report.html and figures.json in" in capsys.readouterr().err
    assert {path.read_text() for path in out.iterdir()} == {"of harden"}


def test_a_report_takes_the_place_of_an_earlier_one_and_leaves_the_rest(given):
    folder = given[1]
    out = folder / "new" / "out"
    out.mkdir(parents=True)
    (out / "w.pt").write_text("mine")
    for _again in range(2):
        assert command(folder, *FEW) == 0
    (out / "report.html").unlink()  # killed after the picture
    assert command(folder, *FEW) == 0
    assert (out / "w.pt").read_text() == "mine"


@pytest.mark.parametrize("box", [(-1.0, 1.0), (-1.0, 0.0), (0.0, 255.0), (-2.5, -2.0), (2.0, 3.0)])
def test_the_image_by_which_options_are_checked_fits_every_box(box):
    check_options(robustness_report, True, {"clip": box})
    for attack in EVERY.values():
        own = inspect.signature(attack).parameters
        needed = {name: value for name, value in (("eps", 0.1), ("steps", 2)) if name in own}
        check_options(attack, False, {**needed, "clip": box})


@pytest.mark.parametrize("clip", [("--clip=-1,1",), ("--clip", "-1,1"), ("--clip", "-1.0,2/2")])
def test_a_box_around_zero(given, clip, capsys):
    words = (*clip, "--samples", "5", "--budget", "10", "--steps", "2", "--quiet")
    assert command(given[1], *words) == 0
    assert "in the box (-1.0, 1.0)" in " ".join(capsys.readouterr().out.split())
