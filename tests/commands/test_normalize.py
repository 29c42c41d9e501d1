"""--mean and --std: attacks and pictures in images, of a model that expects them normalised."""

import pytest
import torch
from safetensors.torch import load_file

from jacfast import cli, data, deepfool, fgsm, models
from jacfast.attacks import DeepFoolResult
from jacfast.data import Split

MEAN, STD = 0.3, 0.25
FLAGS = ["--mean", "0.3", "--std", "1/4"]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Return a folder with a model of normalised images, and let the data be few digits."""
    digits = data.load(None)
    few = Split(*(t[:40] for t in (digits.train_x, digits.train_y)), digits.test_x[:40],
                digits.test_y[:40], 10, "few digits")  # fmt: skip
    monkeypatch.setattr(data, "load", lambda _: few)
    torch.manual_seed(0)
    model = models.deep_defense_mlp()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    for _ in range(60):
        optimizer.zero_grad()
        logits = model((few.test_x - MEAN) / STD)
        torch.nn.functional.cross_entropy(logits, few.test_y).backward()
        optimizer.step()
    torch.save(model.state_dict(), tmp_path / "w.pt")
    return tmp_path, model.eval(), few


def run(folder, command, *options):
    model = ["--model", "jacfast.models:deep_defense_mlp", "--weights", str(folder / "w.pt")]
    return cli.main([*command, *model, "--quiet", *options])


def test_an_attack_moves_in_the_images(folder):
    here, model, few = folder
    out = ["--out", str(here / "fgsm")]
    assert run(here, ["attack", "fgsm"], *out, "--eps", "0.1", *FLAGS) == 0
    got = load_file(here / "fgsm" / "adversarial.safetensors")["adversarial"]
    want = fgsm(lambda x: model((x - MEAN) / STD), few.test_x, eps=0.1)
    assert torch.equal(got, want)
    assert float((got - few.test_x).abs().max()) < 0.1001


def test_deepfool_and_another_normalisation_is_another_run(folder, capsys):
    here, model, few = folder
    command = ["attack", "deepfool"], "--out", str(here / "deepfool")
    assert run(here, *command, *FLAGS) == 0
    got = DeepFoolResult.load(here / "deepfool" / "000000.safetensors")
    want = deepfool(lambda x: model((x - MEAN) / STD), few.test_x)
    torch.testing.assert_close(got.norm, want.norm, rtol=1e-4, atol=1e-6)
    assert run(here, *command, "--mean", "0.4", "--std", "1/4") == 2
    assert "belongs to another run: model" in capsys.readouterr().err


def test_a_picture(folder):
    here, _, _ = folder
    out = ["--out", str(here / "p.png"), "--samples", "20"]
    assert run(here, ["plot", "perturbations"], *out, *FLAGS) == 0
    plain = (here / "p.png").read_bytes()
    assert run(here, ["plot", "perturbations"], *out, "--mean", "0", "--std", "1") == 0
    assert (here / "p.png").read_bytes() != plain


def test_hardening_saves_the_users_own_model(folder):
    here, model, _ = folder
    options = ["--epochs", "1", "--eval-samples", "10", "--batch-size", "10"]
    assert run(here, ["harden"], "--out", str(here / "hard"), *options, *FLAGS) == 0
    own = models.deep_defense_mlp()
    own.load_state_dict(torch.load(here / "hard" / "hardened.pt"))
    assert not torch.equal(own[-1].weight, model[-1].weight)
    resumed = ["--out", str(here / "hard"), "--resume"]
    assert run(here, ["harden"], *resumed, *options, "--mean", "0.4", "--std", "1/4") == 2


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--mean", "0.5"], "mean and std must be given together; got one alone"),
        (["--mean", "0.5", "--std", "0"], "--std must be > 0; got 0"),
        (["--mean", "inf", "--std", "1"], "--mean must be finite numbers"),
        (["--mean", "-inf", "--std", "1"], "--mean must be finite numbers"),
        (["--mean", "-.5,-1/4", "--std", "1,1"], "--mean must have one value, or one for each of"),
        (
            ["--mean", "0.5,0.4,0.3", "--std", "1,1,1"],
            "--mean must have one value, or one for each of the 1 channels of few digits; got 3",
        ),
    ],
)
def test_what_does_not_fit_is_said(folder, flags, words, capsys):
    here, _, _ = folder
    assert run(here, ["attack", "fgsm"], "--out", str(here / "o"), "--eps", "0.1", *flags) == 2
    assert words in capsys.readouterr().err


def test_each_channel_has_its_own():
    x = torch.rand(4, 3, 2, 2, dtype=torch.float64)
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    model = torch.nn.Identity().train()
    got = models.Normalized(model, mean, std)(x)
    want = torch.stack([(x[:, c] - mean[c]) / std[c] for c in range(3)], dim=1)
    torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-15)
    whole = models.Normalized(model.eval(), mean, std)
    assert not any(module.training for module in whole.modules())
