"""jacfast attack with attacks other than deepfool: figures and the file."""

import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

import jacfast
from jacfast.attacks.whole import ATTACKS, attack_to_file
from jacfast.cli import main

OPTIONS = {
    "bim": {"eps": 0.1, "steps": 3, "p": 2.0},
    "carlini_wagner": {"steps": 20},
    "fgsm": {"eps": 0.1},
    "jsma": {"eps": 0.5, "steps": 3},
    "pgd": {"eps": 0.1, "steps": 3},
}


def problem() -> tuple[nn.Module, torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 4))
    return model, torch.rand(11, 3, 2, 2), torch.arange(11) % 4


@pytest.mark.parametrize("labels", [True, False])
@pytest.mark.parametrize("name", ATTACKS)
def test_figures_and_file(name, labels, tmp_path):
    model, x, y = problem()
    path = tmp_path / "there" / "a.safetensors"
    options = {"steps": None, "eps": None, "variant": None, **OPTIONS[name]}
    figures = attack_to_file(path, name, model, x, y, 4, labels=labels, **options)
    file = load_file(path)
    assert torch.equal(file["y"], y)
    moved = file["adversarial"]
    if name != "pgd":
        want = ATTACKS[name](model, x, y if labels else None, **OPTIONS[name])
        torch.testing.assert_close(moved, want)
    r = (moved - x).flatten(1)
    assert float(r.abs().max()) > 0.01
    want = [100 * float((model(at).argmax(1) == y).double().mean()) for at in (x, moved)]
    want += [float((r != 0).sum(1).double().mean()), float(r.norm(dim=1).mean())]
    want += [float(r.abs().amax(1).mean())]
    assert list(figures.values()) == pytest.approx(want, rel=1e-5)


def test_pgd_is_the_same_each_time(tmp_path):
    model, x, y = problem()
    for name in ("a", "b"):
        attack_to_file(tmp_path / name, "pgd", model, x, y, 4, eps=0.1)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_options_are_checked(tmp_path):
    model, x, y = problem()
    with pytest.raises(ValueError, match="--preset must be left out: fgsm has no such option"):
        attack_to_file(tmp_path / "a", "fgsm", model, x, y, 4, eps=0.1, preset="lts4")
    with pytest.raises(ValueError, match="jsma needs --steps; got none"):
        attack_to_file(tmp_path / "a", "jsma", model, x, y, 4, eps=0.1)
    assert not list(tmp_path.iterdir())


def test_the_file_says_what_it_is_of(tmp_path):
    model, x, y = problem()
    path = tmp_path / "out" / "a.safetensors"
    attack_to_file(path, "fgsm", model, x, y, 4, eps=0.1)
    with safe_open(path, framework="pt") as file:
        about = json.loads(file.metadata()["about"])
    assert about.items() >= {"attack": "fgsm", "labels": False, "options": {"eps": 0.1}}.items()
    before, other = path.read_bytes(), problem()[0]
    other[1].weight.data[0, 0] += 1
    for words, name, net, images, options in (
        ("attack was 'fgsm' and is now 'bim'", "bim", model, x, {"eps": 0.1, "steps": 3}),
        ("options was {'eps': 0.1} and is now", "fgsm", model, x, {"eps": 0.2}),
        ("model was", "fgsm", other, x, {"eps": 0.1}),
        ("x was", "fgsm", model, x.flip(0), {"eps": 0.1}),
        ("labels was False and is now True", "fgsm", model, x, {"eps": 0.1, "labels": True}),
    ):
        with pytest.raises(ValueError, match=f"belongs to another run: {words}"):
            attack_to_file(path, name, net, images, y, 4, **options)
    assert path.read_bytes() == before
    attack_to_file(path, "fgsm", model, x, y, 11, eps=0.1)
    assert path.read_bytes() == before


def test_command(tmp_path, capsys):
    from jacfast import data, models

    pytest.importorskip("mlxtend")
    torch.manual_seed(0)
    model = models.seck_c()
    save_file(model.state_dict(), tmp_path / "w.safetensors")
    command = ["--model", "jacfast.models:seck_c", "--out", str(tmp_path / "out")]
    command += ["--weights", str(tmp_path / "w.safetensors"), "--samples", "30"]
    assert main(["attack", "fgsm", *command, "--eps", "0.1", "--batch-size", "20"]) == 0
    said = capsys.readouterr().out
    assert "accuracy before, %" in said
    assert "||r||_inf, mean" in said
    x = data.load(None).test_x[:30]
    got = load_file(tmp_path / "out" / "adversarial.safetensors")["adversarial"]
    torch.testing.assert_close(got, jacfast.fgsm(model, x, eps=0.1))
    assert main(["attack", "fgsm", *command]) == 2
    assert "fgsm needs --eps" in capsys.readouterr().err
    assert main(["attack", "deepfool", *command, "--steps", "3"]) == 2
    assert "--steps must be left out: deepfool has no such option" in capsys.readouterr().err


def test_an_interrupted_command_says_that_it_starts_anew(capsys, monkeypatch):
    def interrupted(*_args, **_options):
        raise KeyboardInterrupt

    monkeypatch.setattr("jacfast.models.load_factory", interrupted)
    command = ["attack", "bim", "--model", "a:b", "--weights", "w.pt", "--out", "there"]
    assert main(command) == 130
    assert "the same command starts anew" in capsys.readouterr().err
