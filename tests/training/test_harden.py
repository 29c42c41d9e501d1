"""Hardening end to end on a tiny job: figures, files, errors found before training."""

import base64
import copy
import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from jacfast import data, deepfool, fgsm, jacobian, models, rho_adv, robustness_report
from jacfast.evaluation import accuracy
from jacfast.timing import ours
from jacfast.training import harden as module
from jacfast.training.harden import PHASES, harden
from jacfast.training.measure import Measures
from jacfast.training.options import Harden
from jacfast.training.table import table
from tests.data.files import write_mnist
from tests.training.runs import called, harden_arguments


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
    norm = torch.tensor([1.0, 7.0, 0.0, 3.0, 0.0])
    for fooled, want in (([True, True, False, True, False], 3.0), ([False] * 5, None)):
        found = dataclasses.replace(attack, norm=norm, success=torch.tensor(fooled))
        numbers = module._numbers(Measures(0.0, 0.0, 0.0, 0.0, {}, {}, found))
        assert numbers["median_norm"] == want


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
    split = data.load(write_mnist(tmp_path / "data", train=40, test=20))
    options = {"train_epochs": 2, "epochs": 1, "lam": 3.0, "n": "exact", "lr": 0.01}
    run = Harden(tmp_path / "out", data=tmp_path / "data", batch_size=16, seed=5, **options)
    harden(run)
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
@pytest.mark.parametrize(
    "stop_at", [3, 5, 6, 8], ids=["first epochs", "last epoch", "between", "hardening"]
)
def test_interrupted_in_either_phase(tmp_path, monkeypatch, stop_at):
    """Six steps of training, two an epoch, and as many of hardening."""
    write_mnist(tmp_path / "data", train=40, test=20)
    options = {"data": tmp_path / "data", "train_epochs": 3, "epochs": 3, "batch_size": 20}
    whole, parted = (Harden(tmp_path / name, **options) for name in ("whole", "parted"))
    harden(whole)
    step, steps = torch.optim.Adam.step, []

    def stopped(self, *given, **more):
        steps.append(1)
        if len(steps) == stop_at + 1:
            raise KeyboardInterrupt
        return step(self, *given, **more)

    with monkeypatch.context() as patch:
        patch.setattr(torch.optim.Adam, "step", stopped)
        with pytest.raises(KeyboardInterrupt):
            harden(parted)
    assert (parted.out / "trained.pt").exists() == (stop_at >= 6)
    with pytest.raises(FileExistsError, match="holds an earlier run: continue it with --resume"):
        harden(parted)
    with pytest.raises(ValueError, match=r"lam was 0\.03 and is now 0\.5"):
        harden(dataclasses.replace(parted, lam=0.5), resume=True)
    harden(parted, resume=True)
    for name in ("trained.pt", "hardened.pt"):
        got, want = (torch.load(run.out / name, weights_only=True) for run in (parted, whole))
        assert all(torch.equal(got[key], want[key]) for key in want)


def test_a_network_with_dropout_is_measured_without_a_warning(tmp_path, monkeypatch, recwarn):
    """The networks are harden's own: it has no need to warn of the mode in which it measures."""
    net = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(784, 10))
    monkeypatch.setattr(models, "tf_tutorial_cnn", lambda: net)
    write_mnist(tmp_path / "data", train=40, test=20)
    options = {"data": tmp_path / "data", "train_epochs": 1, "epochs": 1, "batch_size": 20}
    harden(Harden(tmp_path / "out", **options))
    assert not [str(one.message) for one in recwarn if "mode" in str(one.message)]


@pytest.mark.usefixtures("small")
def test_a_chunk_changes_roundings_alone_and_may_change_on_the_way(tmp_path):
    write_mnist(tmp_path / "data", train=40, test=20)
    options = {"data": tmp_path / "data", "train_epochs": 2, "batch_size": 20}
    whole = Harden(tmp_path / "whole", epochs=4, **options)
    harden(whole)
    parted = Harden(tmp_path / "parted", epochs=4, chunk_size=7, **options)
    harden(parted)
    got, want = (torch.load(run.out / "hardened.pt", weights_only=True) for run in (parted, whole))
    assert not all(torch.equal(got[key], want[key]) for key in want)
    for key in want:
        torch.testing.assert_close(got[key], want[key], rtol=1e-3, atol=1e-5)
    (parted.out / "hardened.pt").unlink()
    harden(dataclasses.replace(parted, chunk_size=3), resume=True)
    assert (parted.out / "hardened.pt").exists()
    with pytest.raises(ValueError, match="chunk_size must be >= 1; got 0"):
        harden(dataclasses.replace(whole, out=tmp_path / "none", chunk_size=0))


@pytest.mark.usefixtures("small")
def test_other_weights_of_the_same_name_are_refused(tmp_path):
    write_mnist(tmp_path / "data", train=40, test=20)
    weights = tmp_path / "w.pt"
    torch.save(models.fc500().state_dict(), weights)
    options = {"data": tmp_path / "data", "epochs": 1, "batch_size": 20}
    run = Harden(tmp_path / "out", model="jacfast.models:fc500", weights=weights, **options)
    harden(run)
    torch.save(models.fc500().state_dict(), weights)
    with pytest.raises(ValueError, match=r"weights was 'w\.pt, SHA-256 .* and is now 'w\.pt, SHA"):
        harden(run, resume=True)


@pytest.mark.usefixtures("small")
def test_resumed_on_the_same_data_elsewhere_and_on_no_others(tmp_path, monkeypatch):
    write_mnist(tmp_path / "data", train=40, test=20)
    shutil.copytree(tmp_path / "data", tmp_path / "moved" / "data")
    run = Harden(tmp_path / "out", data=Path("data"), train_epochs=1, epochs=1, batch_size=20)
    monkeypatch.chdir(tmp_path)
    harden(run)
    kept = {path: path.read_bytes() for path in run.out.glob("*.pt")}
    monkeypatch.chdir(tmp_path / "moved")
    harden(dataclasses.replace(run, data=tmp_path / "moved" / "data"), resume=True)
    file = tmp_path / "moved" / "data" / "train-images-idx3-ubyte"
    file.write_bytes(file.read_bytes()[:-1] + b"\x01")  # the last pixel of one image
    with pytest.raises(ValueError, match=r"data was 'SHA-256 .* and is now 'SHA-256 "):
        harden(run, resume=True)
    assert {path: path.read_bytes() for path in run.out.glob("*.pt")} == kept


@pytest.mark.usefixtures("small")
def test_what_the_weights_do_not_depend_on_may_change_on_the_way(tmp_path):
    write_mnist(tmp_path / "data", train=40, test=20)
    weights = tmp_path / "w.pt"
    torch.save(models.fc500().state_dict(), weights)
    run = Harden(tmp_path / "out", data=tmp_path / "data", epochs=1, batch_size=20, train_epochs=1)
    own = dataclasses.replace(
        run, out=tmp_path / "own", model="jacfast.models:fc500", weights=weights
    )
    harden(run)
    figures = harden(dataclasses.replace(run, eval_samples=7), resume=True)
    assert figures["options"]["eval_samples"] == figures["data"]["evaluated"] == 7
    with pytest.raises(ValueError, match="train_epochs was 1 and is now 2"):
        harden(dataclasses.replace(run, train_epochs=2), resume=True)
    harden(own)
    harden(dataclasses.replace(own, train_epochs=2), resume=True)


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
    write_mnist(tmp_path / "data", train=40, test=20)
    options = {"data": tmp_path / "data", "train_epochs": 1, "epochs": 1, "batch_size": 20}
    run = Harden(tmp_path / "out", chunk_size=4, eval_samples=5, **options)
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
def test_numbers_of_numpy(tmp_path):
    write_mnist(tmp_path / "data", train=40, test=20)
    options = {"seed": 3, "epochs": 1, "batch_size": 20, "eval_samples": 5}
    run = Harden(
        tmp_path / "out",
        data=tmp_path / "data",
        train_epochs=1,
        lam=np.float64(0.1),
        **{name: np.int64(value) for name, value in options.items()},
    )
    figures = harden(run)
    assert figures["options"]["lam"] == 0.1
    assert json.loads((run.out / "figures.json").read_text()) == figures
    harden(dataclasses.replace(run, lam=0.1, **options), resume=True)


def test_options_of_numpy_are_those_of_python(tmp_path):
    given = {"lam": 0.5, "lr": 0.25, "seed": 3, "mean": (0.5, 0.25), "std": (1.0, 2.0)}
    want = Harden(tmp_path, **given).options()
    for kind in (np.float64, np.float32):
        numpy = {
            name: tuple(map(kind, value)) if isinstance(value, tuple) else kind(value)
            for name, value in given.items()
        }
        found = Harden(tmp_path, **numpy | {"seed": np.int64(3)}).options()
        assert json.dumps(found) == json.dumps(want)


def test_what_a_factory_draws_follows_from_the_seed(tmp_path, monkeypatch):
    class Noisy(nn.Linear):
        def __init__(self):
            super().__init__(784, 10)
            self.register_buffer("noise", torch.randn(784), persistent=False)

        def forward(self, x):
            return super().forward(x.flatten(1) + 0.01 * self.noise)

    made = []
    monkeypatch.setattr(models, "load_factory", lambda spec: made.append(Noisy()) or made[-1])
    write_mnist(tmp_path / "data", train=40, test=20)
    torch.save(Noisy().state_dict(), tmp_path / "w.pt")
    options = {"model": "a:b", "weights": tmp_path / "w.pt", "data": tmp_path / "data"}
    for name, seed in (("one", 1), ("two", 1), ("three", 2)):
        torch.rand(3)  # the caller's state differs each time
        state = torch.get_rng_state()
        harden(Harden(tmp_path / name, epochs=1, eval_samples=5, seed=seed, **options))
        assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(made[0].noise, made[1].noise)
    assert not torch.equal(made[0].noise, made[2].noise)


def test_batch_norm_stays_in_eval_mode(tmp_path, monkeypatch):
    write_mnist(tmp_path / "data", train=40, test=20)
    net = nn.Sequential(
        nn.Flatten(), nn.Linear(784, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 10)
    )
    net[2].running_mean.fill_(0.01)
    torch.save(net.state_dict(), tmp_path / "w.pt")
    monkeypatch.setattr(models, "load_factory", lambda spec: copy.deepcopy(net))
    run = Harden(
        tmp_path / "out", model="a:b", weights=tmp_path / "w.pt", data=tmp_path / "data", epochs=2
    )
    harden(run)
    state = torch.load(tmp_path / "out" / "hardened.pt", weights_only=True)
    assert torch.equal(state["2.running_mean"], torch.full((8,), 0.01))
    assert not torch.equal(state["1.weight"], net[1].weight)


class Own(nn.Sequential):
    """A network of a user; the kinds below do in their own way what `forward` does here."""

    def __init__(self):
        super().__init__(nn.Flatten(), nn.Linear(784, 8), nn.Tanh(), nn.Linear(8, 10))


class Frozen(Own):
    def __init__(self):
        super().__init__()
        self[1].requires_grad_(False)


class Named(Own):
    def forward(self, x):
        return {"logits": super().forward(x), "images": x}


class InPlace(Own):
    def forward(self, x):
        return super().forward(x.sub_(0.5))


class Attention(Own):
    def forward(self, x):
        return super().forward(F.scaled_dot_product_attention(x, x, x))


class Extra(Own):
    def get_extra_state(self):
        return {"kind": "no tensor"}

    def set_extra_state(self, state):
        assert state == {"kind": "no tensor"}


@pytest.mark.parametrize("kind", [Frozen, Named, InPlace, Attention, Extra])
def test_every_kind_of_network_comes_to_its_figures(tmp_path, monkeypatch, kind):
    monkeypatch.setattr(models, "load_factory", lambda spec: kind())
    write_mnist(tmp_path / "data", train=40, test=20)
    torch.save(kind().state_dict(), tmp_path / "w.pt")
    run = Harden(
        tmp_path / "out", model="a:b", weights=tmp_path / "w.pt", data=tmp_path / "data", epochs=1
    )
    figures = harden(run)
    assert "speedup" in figures["step"]
    assert harden(run, resume=True)["after"] == figures["after"]
    state = torch.load(run.out / "hardened.pt", weights_only=True)
    assert state.keys() == kind().state_dict().keys()


@pytest.mark.usefixtures("small")
def test_a_run_that_ends_while_it_is_timed_has_its_figures(tmp_path, monkeypatch):
    """By the system, say, for memory: then nothing can be caught."""

    class Killed(BaseException):
        pass

    def killed(*_):
        raise Killed

    monkeypatch.setattr(module, "time_steps", killed)
    write_mnist(tmp_path / "data", train=40, test=20)
    options = {"data": tmp_path / "data", "train_epochs": 1, "epochs": 1, "batch_size": 20}
    run = Harden(tmp_path / "out", eval_samples=5, **options)
    with pytest.raises(Killed):
        harden(run)
    figures = json.loads((run.out / "figures.json").read_text())
    assert figures["step"] == {"images": 20, "why": "the run ended before"}
    words = "one training step of 20 images is not timed; the run ended before"
    assert words in table(figures)
    assert words in (run.out / "report.html").read_text()
    assert (run.out / "harden.png").exists()
