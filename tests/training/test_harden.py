"""Hardening end to end on a tiny job: its figures, its files, its table."""

import base64
import contextlib
import dataclasses
import json

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from jacfast import data, deepfool, fgsm, jacobian, models, rho_adv, robustness_report
from jacfast.evaluation import accuracy
from jacfast.team import Team
from jacfast.timing import ours
from jacfast.training import harden as module
from jacfast.training import measure as measures
from jacfast.training.harden import harden
from jacfast.training.measure import Measures
from jacfast.training.options import Harden
from jacfast.training.ready import PHASES
from jacfast.training.table import table
from tests.data.files import write_mnist
from tests.training.runs import called, harden_arguments, small_run


@pytest.mark.usefixtures("small", "drawn")
def test_figures_are_those_of_the_written_weights(tmp_path):
    write_mnist(tmp_path / "data", train=200, test=40)
    run = Harden(tmp_path / "out", data=tmp_path / "data", train_epochs=8, epochs=8, batch_size=20)
    state = torch.get_rng_state()
    figures = harden(run)
    assert torch.equal(torch.get_rng_state(), state)
    assert json.loads((tmp_path / "out" / "figures.json").read_text()) == figures

    split = data.load(tmp_path / "data")
    for name, key in (("trained.pt", "before"), ("hardened.pt", "after")):
        model = models.mlp(784, 24, 10)
        models.load_weights(model, tmp_path / "out" / name)
        x = split.test_x
        assert figures[key]["accuracy"] == accuracy(model, x, split.test_y)
        assert figures[key]["rho_adv"] == pytest.approx(rho_adv(model, x), rel=1e-5)
        attack = deepfool(model, x)
        for point, field in ((x, "norm_clean"), (attack.adversarial, "norm_perturbed")):
            norm = jacobian(model, point).flatten(1).norm(dim=1).mean()
            assert figures[key][field] == pytest.approx(float(norm), rel=1e-5)
        size = (attack.adversarial - x).flatten(1).norm(dim=1)
        assert figures[key]["median_norm"] == pytest.approx(float(size.median()), rel=1e-5)
        changed = model(attack.adversarial).argmax(dim=1) != model(x).argmax(dim=1)
        assert figures[key]["fooled"] == pytest.approx(float(changed.float().mean()))
        assert figures[key]["iterations"] == sum(attack.iterations.tolist()) / len(x)
        assert figures[key]["fgsm"] == {
            str(eps): accuracy(model, fgsm(model, x, split.test_y, eps=eps), split.test_y)
            for eps in (0.05, 0.1, 0.2)
        }
        worst = figures[key]["worst"]
        sizes = {
            f"{share * float(x.flatten(1).norm(dim=1).median()):.2g}" for share in (0.03, 0.1, 0.2)
        }
        assert {f"{float(eps):.2g}" for eps in worst["accuracy"]} == sizes
        report = robustness_report(
            model, x, split.test_y, eps=sorted(map(float, sizes)), budget=30, steps=10, restarts=1
        )
        assert worst["accuracy"] == {
            f"{e:g}": report.robust_accuracy(e) for e in report.choices.eps
        }
        far = report.distances["worst case"]
        assert worst["median_distance"] == pytest.approx(float(far[far > 0].median()))
        assert worst["findings"] == [sign.name for sign in report.findings]
    assert (
        figures["after"]["worst"]["median_distance"] > figures["before"]["worst"]["median_distance"]
    )
    assert figures["after"]["norm_clean"] < figures["before"]["norm_clean"]
    assert figures["after"]["rho_adv"] > figures["before"]["rho_adv"]
    picture = (tmp_path / "out" / "harden.png").read_bytes()
    assert picture.startswith(b"\x89PNG")
    page = (tmp_path / "out" / "report.html").read_text()
    assert base64.b64encode(picture).decode() in page
    assert f"<td>{100 * figures['after']['accuracy']:.2f}</td>" in page


def test_the_median_norm_is_that_of_the_fooled():
    torch.manual_seed(0)
    attack = deepfool(models.mlp(16, 8, 4), torch.rand(5, 16))
    norm = torch.tensor([1.0, 7.0, 2.0, 3.0, 0.0])
    for fooled, want in (([True, True, False, True, False], 3.0), ([False] * 5, None)):
        found = dataclasses.replace(attack, norm=norm, success=torch.tensor(fooled))
        numbers = module._numbers(Measures(0.0, 0.0, 0.0, 0.0, {}, {}, found))
        assert numbers["median_norm"] == want
        assert numbers["fooled"] == sum(fooled) / 5


def test_rho_is_that_of_all_images_fooled_or_not(monkeypatch):
    torch.manual_seed(0)
    model, x = models.mlp(16, 8, 4).eval(), torch.rand(12, 16)
    cap = float(deepfool(model, x).norm.median())
    found = deepfool(model, x, max_norm=cap)
    assert 0 < int(found.success.sum()) < 12
    monkeypatch.setattr(measures, "deepfool", lambda *_: found)
    monkeypatch.setattr(measures, "_worst", lambda *_: {})
    with pytest.warns(UserWarning, match="samples were not fooled"):
        got = measures.measure(model, x, model(x).argmax(dim=1), "")
    assert got.rho_adv == pytest.approx(float((found.norm / x.norm(dim=1)).mean()))


def test_the_weights_are_those_of_the_loops_by_hand(tmp_path, monkeypatch):
    """Every option counts, and dropout in training alone: CE, then CE + lam mean ||J||_F^2."""

    def net():
        layers = [nn.Linear(784, 6), nn.Tanh(), nn.Dropout(0.3), nn.Linear(6, 10)]
        return nn.Sequential(nn.Flatten(), *layers)

    def descend(model, epochs, penalty):
        torch.manual_seed(5)  # of dropout
        order, adam = (
            torch.Generator().manual_seed(5),
            torch.optim.Adam(model.parameters(), lr=0.01),
        )
        for _ in range(epochs):
            for batch in torch.randperm(40, generator=order).split(16):
                x, y = split.train_x[batch], split.train_y[batch]
                adam.zero_grad()
                (F.cross_entropy(model(x), y) + penalty(model, x)).backward()
                adam.step()

    def exact(model, x):
        rows = torch.func.vmap(torch.func.jacrev(lambda one: model(one[None])[0]))(x)
        return 3.0 * rows.square().sum() / len(x)

    monkeypatch.setattr(models, "tf_tutorial_cnn", net)
    options = {"train_epochs": 2, "lam": 3.0, "n": "exact", "lr": 0.01}
    run = small_run(tmp_path, batch_size=16, seed=5, **options)
    split = data.load(run.data)
    shown = []
    monkeypatch.setattr("jacfast.training.harden.hardening_figure", lambda *it: shown.extend(it))
    figures = harden(run)
    means = [float(found.iterations.double().mean()) for found in shown[2:]]
    assert means == [figures[when]["iterations"] for when in ("before", "after")]
    assert means[0] != means[1]
    torch.manual_seed(5)
    model = net()
    descend(model.train(), 2, lambda *_: 0)
    trained = torch.load(run.out / "trained.pt", weights_only=True)
    assert all(torch.equal(trained[key], want) for key, want in model.state_dict().items())
    descend(model.eval(), 1, exact)
    hardened = torch.load(run.out / "hardened.pt", weights_only=True)
    torch.testing.assert_close(hardened, dict(model.state_dict()), rtol=1e-3, atol=1e-5)
    assert all(bool((trained[key] - hardened[key]).abs().max() > 0.01) for key in trained)


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("memory", [4, 3], ids=["enough for the chunk", "too little to time"])
def test_a_chunk_bounds_the_timed_step_which_may_fail(tmp_path, monkeypatch, memory):
    seen, step = [], ours.forward_with_penalty

    def short_of_memory(model, x, y, **options):
        seen.append(len(x))
        if len(x) > memory:
            raise MemoryError
        return step(model, x, y, **options)

    monkeypatch.setattr(ours, "forward_with_penalty", short_of_memory)
    run = small_run(tmp_path, chunk_size=4, eval_samples=5)
    figures = harden(run)
    assert json.loads((run.out / "figures.json").read_text()) == figures
    if memory < 4:
        words = "one training step of 4 images is not timed; left out: out of memory"
        assert words in table(figures)
        assert words in (run.out / "report.html").read_text()
    else:
        assert set(seen) == {4}
        assert "one training step of 4 images, median" in table(figures)
        large = dataclasses.replace(run, out=tmp_path / "large", batch_size=3)
        assert "one training step of 3 images, median" in table(harden(large))
    got, then = (
        torch.load(run.out / f, weights_only=True) for f in ("hardened.pt", PHASES["harden"])
    )
    assert all(torch.equal(got[key], then["model"][key]) for key in got)


@pytest.mark.usefixtures("drawn")
def test_the_table_of_the_command(job):
    done = called(job, *harden_arguments("out"))
    assert done.returncode == 0, done.stderr
    for row in (
        "test accuracy, %",
        "rho_adv (DeepFool), x 100",
        "mean ||J||_F at images",
        "mean ||J||_F at DeepFool images",
        "accuracy under FGSM, eps 0.05, %",
        "accuracy under FGSM, eps 0.2, %",
        "worst case: distance, median",
        "worst case: accuracy, eps ",
        "signs of masked gradients: ",
        "seconds of training, this call",
        "times as fast as that loop",
        "written: out/hardened.pt, out/figures.json, out/harden.png, out/report.html",
    ):
        assert row in done.stdout
    assert "%|" not in done.stderr  # no bar is drawn in a log, and no line before five seconds
    assert not [p for p in (job / "out").iterdir() if p.name.startswith(".")]


@pytest.mark.usefixtures("small")
def test_a_run_that_ends_while_it_is_timed_has_its_figures(tmp_path, monkeypatch):
    """By the system, say, for memory: then nothing can be caught."""

    class Killed(BaseException):
        pass

    def killed(*_):
        raise Killed

    monkeypatch.setattr(module, "time_steps", killed)
    run = small_run(tmp_path, eval_samples=5)
    with pytest.raises(Killed):
        harden(run)
    figures = json.loads((run.out / "figures.json").read_text())
    assert figures["step"] == {"images": 20, "why": "the run ended before"}
    words = "one training step of 20 images is not timed; the run ended before"
    assert words in table(figures)
    assert words in (run.out / "report.html").read_text()
    assert (run.out / "harden.png").exists()


@pytest.mark.usefixtures("small")
def test_the_others_wait_as_long_as_the_first_measures(tmp_path, monkeypatch):
    """They are in the training already, and would lose their patience."""
    signs, measured = [], module.measure

    @contextlib.contextmanager
    def working(team):
        signs.append(team.rank)
        yield
        signs.append("no more")

    def measure(model, x, y, name):
        assert signs[-1] == (0 if name == "before" else "no more")
        return measured(model, x, y, name)

    monkeypatch.setattr(Team, "working", working)
    monkeypatch.setattr(module, "measure", measure)
    harden(small_run(tmp_path, eval_samples=5))
    assert signs[-2:] == [0, "no more"]
