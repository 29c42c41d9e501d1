"""jacfast attack with attacks other than deepfool: figures and the file."""

import functools
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
    "ddn": {"steps": 40},
    "fmn": {"steps": 5, "p": float("inf")},
    "minimal_norm": {"budget": 20},
    "fgsm": {"eps": 0.1},
    "jsma": {"eps": 0.5, "steps": 3},
    "pgd": {"eps": 0.1, "steps": 3},
}


def problem() -> tuple[nn.Module, torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 4))
    return model, torch.rand(11, 3, 2, 2), torch.arange(11) % 4


def bent() -> nn.Module:
    """Return a network whose boundary fmn has not reached in 5 steps.

    On a linear one it ends within a rounding of it, which decides the class.
    """
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 16), nn.Tanh(), nn.Linear(16, 4))
    model[1].weight.data *= 8
    return model


@pytest.mark.parametrize("labels", [True, False])
@pytest.mark.parametrize("name", ATTACKS)
def test_figures_and_file(name, labels, tmp_path):
    model, x, y = problem()
    if name == "fmn":
        model = bent()
    path = tmp_path / "there" / "a.safetensors"
    figures = attack_to_file(path, name, model, x, y, 4, labels=labels, **OPTIONS[name])
    file = load_file(path)
    assert torch.equal(file["y"], y)
    moved = file["adversarial"]
    if name != "pgd":
        want = ATTACKS[name](model, x, y if labels else None, **OPTIONS[name])
        torch.testing.assert_close(moved, want)
    then, now = (model(at).argmax(1) for at in (x, moved))
    left = (then == y) if labels else torch.ones(11, dtype=torch.bool)
    fooled = left & (then != now)
    r = (moved - x).flatten(1)[fooled]
    assert len(r)
    want = [100 * float((at == y).double().mean()) for at in (then, now)]
    want += [100 * int(fooled.sum()) / int(left.sum())]
    want += [float((r != 0).sum(1).double().mean()), float(r.abs().sum(1).mean())]
    want += [float(r.norm(dim=1).mean()), float(r.abs().amax(1).mean())]
    assert list(figures.values()) == pytest.approx(want, rel=1e-5)


FIRST = {"eps": 0.1, "steps": 1, "step_size": 0.01}  # from where it starts it does not get far


def test_pgd_is_the_same_each_time(tmp_path):
    model, x, y = problem()
    for name in ("a", "b"):
        attack_to_file(tmp_path / name / "file", "pgd", model, x, y, 4, **FIRST)
    assert (tmp_path / "a" / "file").read_bytes() == (tmp_path / "b" / "file").read_bytes()


def test_pgd_starts_somewhere_else_in_each_batch(tmp_path):
    model, x, y = problem()
    x, y = x[:1].expand(4, -1, -1, -1), y[:1].expand(4)
    attack_to_file(tmp_path / "there" / "file", "pgd", model, x, y, 2, **FIRST)
    moved = load_file(tmp_path / "there" / "file")["adversarial"].flatten(1)
    assert len(moved.unique(dim=0)) == 4


def test_the_file_says_what_it_is_of(tmp_path):
    model, x, y = problem()
    path = tmp_path / "out" / "a.safetensors"
    attack_to_file(path, "fgsm", model, x, y, 4, eps=0.1)
    with safe_open(path, framework="pt") as file:
        about = json.loads(file.metadata()["about"])
    assert about.items() >= {"attack": "fgsm", "labels": False}.items()
    assert about["options"] == {"clip": [0, 1], "eps": 0.1}
    before, other = path.read_bytes(), problem()[0]
    other[1].weight.data[0, 0] += 1
    for words, name, net, images, classes, options in (
        ("attack was 'fgsm' and is now 'bim'", "bim", model, x, y, {"eps": 0.1, "steps": 3}),
        ("options was .*'eps': 0.1} and is now .*'eps': 0.2}", "fgsm", model, x, y, {"eps": 0.2}),
        ("model was", "fgsm", other, x, y, {"eps": 0.1}),
        ("x was", "fgsm", model, x.flip(0), y, {"eps": 0.1}),
        ("y was", "fgsm", model, x, y.flip(0), {"eps": 0.1}),
        ("labels was False and is now True", "fgsm", model, x, y, {"eps": 0.1, "labels": True}),
    ):
        with pytest.raises(ValueError, match=f"belongs to another run: {words}"):
            attack_to_file(path, name, net, images, classes, 4, **options)
    assert path.read_bytes() == before
    attack_to_file(path, "fgsm", model, x, y, 11, eps=0.1)
    assert path.read_bytes() == before


def test_it_goes_on_after_a_kill_and_with_smaller_batches(tmp_path, monkeypatch):
    model, x, y = problem()
    want = attack_to_file(tmp_path / "whole" / "a", "bim", model, x, y, 11, eps=0.1, steps=2)
    counts, broken, called = [], [True], []
    model.register_forward_hook(lambda _, given, out: called.append(len(given[0])))

    def counting(model, x, y=None, **options):
        counts.append(len(x))
        if len(counts) == 3 and broken.pop():
            raise KeyboardInterrupt
        return jacfast.bim(model, x, y, **options)

    monkeypatch.setitem(ATTACKS, "bim", functools.wraps(jacfast.bim)(counting))
    path = tmp_path / "out" / "a"
    with pytest.raises(KeyboardInterrupt):
        attack_to_file(path, "bim", model, x, y, 4, eps=0.1, steps=2)
    called.clear()
    got = attack_to_file(path, "bim", model, x, y, 2, eps=0.1, steps=2)
    assert counts == [4, 4, 3, 2, 1]
    assert max(called) == 2  # of the files with four, too
    assert got == want
    called.clear()
    assert {file.name for file in path.parent.iterdir()} == {"a", "attack.json"}
    assert attack_to_file(path, "bim", model, x, y, 5, eps=0.1, steps=2) == want
    assert counts == [4, 4, 3, 2, 1]
    assert max(called) == 5


@pytest.mark.filterwarnings("ignore:the model has dropout")
def test_the_figures_of_a_model_in_training_mode_are_those_of_eval_mode(tmp_path):
    _, x, y = problem()
    model = nn.Sequential(nn.Flatten(), nn.Dropout(0.9), nn.Linear(12, 4))
    found = [
        attack_to_file(
            tmp_path / name / "a", "fgsm", model.train(name == "train"), x, y, 4, eps=0.1
        )
        for name in ("eval", "train")
    ]
    assert found[0] == found[1]
    assert model.training


def test_a_model_that_does_something_else_is_another_run(tmp_path):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 9), nn.ReLU(), nn.Linear(9, 4))
    other = nn.Sequential(nn.Flatten(), model[1], nn.LeakyReLU(), model[3])
    _, x, y = problem()
    path = tmp_path / "out" / "a"
    attack_to_file(path, "fgsm", model, x, y, 4, eps=0.1)
    with pytest.raises(ValueError, match="belongs to another run: the model's logits"):
        attack_to_file(path, "fgsm", other, x, y, 4, eps=0.1)


def test_carlini_wagner_says_how_many_it_fooled_and_how_far_away_these_are(tmp_path):
    """One image cannot be fooled: its class does not depend on x. By hand: the other is at 0.25."""

    class Half(nn.Module):
        def forward(self, x):
            fixed = x.flatten(1)[:, 0] > 0.9
            z = torch.where(fixed, -9.0, x.flatten(1)[:, 1] - 0.5)
            return torch.stack([torch.zeros_like(z), z], 1)

    x = torch.tensor([[[[0.99, 0.25]]], [[[0.0, 0.25]]]])
    figures = attack_to_file(
        tmp_path / "o" / "a", "carlini_wagner", Half(), x, torch.zeros(2).long(), 2, steps=200
    )
    assert figures["fooled, %"] == 50
    for p in (1, 2):
        assert figures[f"||r||_{p}, mean of fooled"] == pytest.approx(0.25, rel=0.05)


def test_one_target_for_all_images(tmp_path):
    model, x, y = problem()
    path, target = tmp_path / "out" / "a", int(model(x).argmax(1)[0])
    figures = attack_to_file(path, "jsma", model, x, y, 4, target=target, steps=12)
    want = jacfast.jsma(model, x, target=torch.full((11,), target), steps=12)
    assert torch.equal(load_file(path)["adversarial"], want)
    left = model(x).argmax(1) != target
    reached = (model(want).argmax(1) == target)[left].double().mean()
    assert figures["fooled, %"] == pytest.approx(100 * float(reached))
    assert not left.all()
    r = (want - x).flatten(1)[left & (model(want).argmax(1) == target)]  # of nobody who was there
    changed = float((r != 0).sum(1).double().mean())
    assert figures["||r||_0, mean of fooled"] == pytest.approx(changed)


@pytest.mark.parametrize("what", ["weight", "image"])
def test_nan_and_infinity_are_named_before_any_work(tmp_path, what):
    model, x, y = problem()
    if what == "weight":
        model[1].weight.data[1, 2] = float("inf")
    else:
        x[7, 0, 0, 0] = float("nan")
    words = {"weight": "parameter 1.weight must be finite; 1 of its 48", "image": "first at 7"}
    with pytest.raises(ValueError, match=words[what]):
        attack_to_file(tmp_path / "out" / "a", "fgsm", model, x, y, 4, eps=0.1)
    assert not list(tmp_path.iterdir())


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
    assert main(["attack", "fgsm", *command, "--eps", "1/10", "--json", "--quiet"]) == 0
    shown = capsys.readouterr()
    figures = json.loads(shown.out)["figures"]
    assert f"accuracy after, %{figures['accuracy after, %']:>18.5g}"[-7:] in said
    assert shown.err == ""
    for words, message in (
        (["fgsm"], "the following arguments are required: --eps"),
        (["deepfool", "--restarts", "3"], "unrecognized arguments: --restarts 3"),
    ):
        with pytest.raises(SystemExit):
            main(["attack", words[0], *command, *words[1:]])
        assert message in capsys.readouterr().err


def test_an_interrupted_command_says_that_it_starts_anew(capsys, monkeypatch):
    def interrupted(*_args, **_options):
        raise KeyboardInterrupt

    monkeypatch.setattr("jacfast.models.load_factory", interrupted)
    command = ["attack", "bim", "--model", "a:b", "--weights", __file__, "--out", "there"]
    command += ["--eps", "0.1"]
    assert main(command) == 130
    assert "the same command starts anew" in capsys.readouterr().err


class NaNOfDark(nn.Module):
    """Standardises an image by itself, as some networks do: 0/0 for one of a single colour."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(12, 4)

    def forward(self, x):
        x = x.flatten(1)
        x = x - x.mean(1, keepdim=True)
        return self.layer(x / x.square().mean(1, keepdim=True).sqrt())


@pytest.mark.parametrize("labels", [True, False])
def test_an_image_with_nan_logits_is_neither_right_nor_fooled(labels, tmp_path):
    """The largest of NaN is the first: it would be of class 0."""
    model, x, y = NaNOfDark(), problem()[1], torch.zeros(11, dtype=torch.int64)
    x[2] = 0.25
    want = jacfast.fgsm.result(model, x, y if labels else None, eps=0.1)
    right = jacfast.evaluation.accuracy(model, x, y)
    after = jacfast.evaluation.accuracy(model, want.adversarial, y)
    with pytest.warns(UserWarning, match="logits are NaN or infinite in 1 of 11 samples"):
        found = attack_to_file(
            tmp_path / "a" / "a.pt", "fgsm", model, x, y, 4, labels=labels, eps=0.1
        )
    assert found["accuracy before, %"] == pytest.approx(100 * right)
    assert found["accuracy after, %"] == pytest.approx(100 * after)
    then = model(x).argmax(1)
    kept = (then == y) & model(x).isfinite().all(1) if labels else torch.ones(11, dtype=torch.bool)
    assert found["fooled, %"] == pytest.approx(100 * float(want.success[kept].double().mean()))


def test_an_attack_that_ends_at_nan_logits_has_not_fooled(tmp_path):
    layer = nn.Linear(12, 4)

    class NaNOfBright(nn.Module):
        def forward(self, x):
            z = layer(x.flatten(1))
            return z.where(x.flatten(1)[:, :1] < 0.5, torch.nan)

    model, x, y = NaNOfBright(), problem()[1] * 0.1 + 0.4, torch.zeros(11, dtype=torch.int64)
    want = jacfast.fgsm.result(model, x, eps=0.2)
    assert bool((want.label < 0).any())
    found = attack_to_file(tmp_path / "a" / "a.pt", "fgsm", model, x, y, 4, eps=0.2)
    assert found["fooled, %"] == pytest.approx(100 * float(want.success.double().mean()))


def test_a_file_of_a_model_that_draws_is_read(tmp_path):
    class Noisy(nn.Linear):
        def forward(self, x):
            return super().forward(x + 0.1 * torch.randn_like(x))

    model, x, y = Noisy(12, 4), torch.rand(11, 12), torch.arange(11) % 4
    path, seen = tmp_path / "a.safetensors", []
    for _ in range(2):
        found = attack_to_file(path, "fgsm", model, x, y, 4, eps=0.1)
        seen.append((path.read_bytes(), found["accuracy before, %"]))
    assert seen[0] == seen[1]


def test_a_finished_file_is_read_without_all_images_on_the_device(tmp_path, monkeypatch):
    """They need not fit there: no more than a batch goes to the model's device at a time."""
    model, x, y = problem()
    path = tmp_path / "there" / "a.safetensors"
    want = attack_to_file(path, "fgsm", model, x, y, 4, eps=0.1)
    to, moved = torch.Tensor.to, []

    def noted(tensor, *given, **options):
        if any(isinstance(one, torch.device) for one in given) and tensor.shape[1:] == x.shape[1:]:
            moved.append(len(tensor))
        return to(tensor, *given, **options)

    monkeypatch.setattr(torch.Tensor, "to", noted)
    assert attack_to_file(path, "fgsm", model, x, y, 4, eps=0.1) == want
    assert max(moved) == 4
