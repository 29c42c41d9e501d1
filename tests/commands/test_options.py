"""The options of the commands: which there are, how they are read, what is refused."""

import argparse
import inspect
import re

import pytest
import torch

from jacfast import cli
from jacfast.commands import attack
from jacfast.commands.arguments import add_device, number
from jacfast.training.options import Harden

CLASSIFIER = ["--model", "a:b", "--weights", __file__, "--out"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["harden", "--out", "o", "--n", "some"], "must be an integer; got 'some' (or 'exact')"),
        (["reproduce", "--device", "foo"], "must be one that torch can use; got 'foo'"),
        (["reproduce", "--device", "meta"], "must be one that torch can use; got 'meta'"),
        (["reproduce", "--device", "cuda:99"], "must be one that torch can use; got 'cuda:99'"),
        (["reproduce", "--out", __file__], "must be a folder, or not be there; "),
        (["attack", "fgsm", *CLASSIFIER, __file__], "must be a folder, or not be there; "),
        (
            ["harden", "--out", "/proc/no/where"],
            "must be where files can be made; got /proc/no/where (",
        ),
        (
            ["harden", "--out", f"{__file__}/a"],
            f"can be made; got {__file__}/a ({__file__}: Not a dir",
        ),
    ],
)
def test_arguments_are_refused_in_words(arguments, words, capsys):
    with pytest.raises(SystemExit) as caught:
        cli.main(arguments)
    assert caught.value.code == 2
    assert words in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "value"), [("8/255", 8 / 255), ("0.03", 0.03), ("1e-3", 1e-3), ("inf", float("inf"))]
)
def test_numbers(text, value):
    assert number(text) == value


@pytest.mark.parametrize("text", ["8/0", "a", "nan", "1/2/3", "", "/2"])
def test_what_is_no_number(text):
    with pytest.raises(argparse.ArgumentTypeError, match="must be a number, such as"):
        number(text)


@pytest.mark.parametrize("name", attack.EVERY)
def test_an_attack_shows_its_own_options_and_defaults(name, capsys):
    """All of the signature, but what only tensors can say."""
    with pytest.raises(SystemExit):
        cli.main(["attack", name, "--help"])
    said = " ".join(capsys.readouterr().out.split())
    assert "default: None" not in said
    parameters = inspect.signature(attack.EVERY[name]).parameters
    own = {
        "start",
        "mask",
        "subspace",
        "generator",
        "batch_size",
        "progress",
        "args",
        "kwargs",
        "output",
    }
    for option, parameter in parameters.items():
        if parameter.kind is parameter.KEYWORD_ONLY and option not in own:
            words = option.replace("_", "-")
            assert re.search(rf" --{words}(?![\w-])", said), option  # and no longer one
            if isinstance(parameter.default, int | str) and option != "clip":
                assert f"default: {parameter.default}" in said, option


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["fgsm", "--eps", "-1"], "jacfast: --eps must be finite and >= 0; got -1.0"),
        (["pgd", "--eps", "1", "--loss", "hinge"], "jacfast: --loss must be one of cross-entropy"),
        (["pgd", "--eps", "1", "--restarts", "2", "--no-random-start"], "--restarts must be 1"),
        (["jsma", "--steps", "3", "--pixels", "2"], "pixels=2 needs target"),
        (["deepfool", "--p", "1/2"], "jacfast: --p must be > 1"),
        (["deepfool", "--clip", "1,0"], "jacfast: --clip must be (low, high)"),
        (["deepfool", "--labels", "--target", "1"], "got both"),
        (["minimal-norm", "--budget", "3"], "jacfast: --budget must be >= 5"),
        (["minimal-norm", "--p", "1.5"], "jacfast: --p must be one of 1, 2, inf; got 1.5"),
        (["carlini_wagner", "--clip", "none"], "jacfast: --clip must be finite"),
    ],
)
def test_options_are_checked_before_model_and_data_are_loaded(words, message, capsys, monkeypatch):
    for work in ("models.load_factory", "data.load"):
        monkeypatch.setattr(f"jacfast.{work}", lambda *_: pytest.fail("it was loaded"))
    assert cli.main(["attack", *words, *CLASSIFIER, "there"]) == 2
    assert message in capsys.readouterr().err


def test_epochs_of_a_training_that_is_none(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("jacfast.training.harden.harden", lambda *_: pytest.fail("it began"))
    words = ["harden", *CLASSIFIER, str(tmp_path), "--train-epochs", "30"]
    assert cli.main(words) == 2
    said = "jacfast: --train-epochs must be left out with a model, which is trained; got 30"
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["attack", "deepfool", *CLASSIFIER, "o", "--chunk-size", "0"],
            "--chunk-size: must be >= 1; got 0",
        ),
        (["attack", "fgsm", *CLASSIFIER, "o", "--eps", "8/0"], "--eps: must be a number"),
        (
            ["attack", "bim", *CLASSIFIER, "o", "--eps", "1", "--steps", "x"],
            "--steps: must be an in",
        ),
        (["harden", "--out", "o", "--weights", "no.pt"], "must be a file that is there; got no.pt"),
        (["harden", "--out", "o", "--n", "0"], "argument --n: must be >= 1; got 0 (or 'exact')"),
        (
            ["plot", "cells", *CLASSIFIER, "o", "--data", "nowhere"],
            "must be a folder that is there",
        ),
        # the beginning of an option is another one elsewhere: `--p` the norm, `--max` ART's steps
        (
            ["attack", "jsma", *CLASSIFIER, "o", "--steps", "3", "--p", "1"],
            "unrecognized arguments: --p 1",
        ),
        (
            ["attack", "deepfool", *CLASSIFIER, "o", "--max", "100"],
            "unrecognized arguments: --max 100",
        ),
        (["report", *CLASSIFIER, "o", "--batch", "32"], "unrecognized arguments: --batch 32"),
    ],
)
def test_values_are_refused_by_the_parser(words, message, capsys):
    with pytest.raises(SystemExit):
        cli.main(words)
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "want"),
    [
        (["--clip", "-1,1", "-x"], ["--clip=-1,1", "-x"]),
        (["--clip=0,1", "-1,1"], ["--clip=0,1", "-1,1"]),
        (["--mean", "-.5,-1/4", "--std", "-inf", "1"], ["--mean=-.5,-1/4", "--std=-inf", "1"]),
        (["--eps", "-", "--", "-1", "a", "-1"], ["--eps", "-", "--", "-1", "a", "-1"]),
        (["--labels", "--out", "-out"], ["--labels", "--out", "-out"]),
    ],
)
def test_a_value_that_begins_with_a_minus_belongs_to_its_option(words, want):
    assert cli._joined(words) == want


@pytest.mark.parametrize(("gpus", "rank", "want"), [(1, "1", "cuda"), (8, "3", "cuda:3")])
def test_each_process_takes_the_gpu_of_its_number(monkeypatch, gpus, rank, want):
    taken = []
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    monkeypatch.setattr(torch, "zeros", lambda *_, device: taken.append(device) or torch.ones(1))
    for name, value in (("TORCHELASTIC_RUN_ID", "x"), ("RANK", rank), ("LOCAL_RANK", rank)):
        monkeypatch.setenv(name, value)
    parser = argparse.ArgumentParser()
    add_device(parser.add_argument)
    assert parser.parse_args(["--device", "cuda"]).device == want
    assert taken == [want]  # no other GPU is touched


def test_processes_with_a_gpu_each_have_the_same_options(tmp_path):
    """Else they would take each other, and their checkpoints, for another run's."""
    runs = [Harden(out=tmp_path, device=device) for device in ("cuda:0", "cuda:3", "cuda")]
    assert runs[0].options() == runs[1].options() == runs[2].options()
    assert runs[0].options() != Harden(out=tmp_path, device="cpu").options()
