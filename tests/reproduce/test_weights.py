"""Weights of a penalty that are chosen on images held out."""

from types import SimpleNamespace

import pytest
import torch

from jacfast import models
from jacfast.data import load_digits
from jacfast.evaluation import accuracy, rho_adv
from jacfast.reproduce import networks, parts, reproduce, show
from jacfast.training import fit
from tests.reproduce.table import TABLE, trained


def several(*weights, tolerance):
    """Return TABLE with one seed and several weights of the penalty to choose from."""
    text = TABLE.replace("seeds = [0, 1]", f"validation = 100\ntolerance = {tolerance}")
    text = text.replace("[base]", 'pictured = ["penalty"]\n[base]')
    return text.replace("lam = 0.1", f"lam = {list(weights)}")


def test_a_weight_is_chosen_on_images_held_out(tables, tmp_path, monkeypatch):
    """Of 1 and 10 the one of larger rho_adv, or that of higher accuracy if the other costs more."""
    lengths = []

    def watched(model, x, y, **options):
        lengths.append(len(x))
        return fit(model, x, y, **options)

    monkeypatch.setattr("jacfast.reproduce.seed.fit", watched)
    (tables / "mine.toml").write_text(several(1.0, 10.0, tolerance=100.0))
    out, other = tmp_path / "run", tmp_path / "other"
    result = reproduce("mine", out, quick=True)
    assert lengths == [300] * 4  # of 400, the last 100 are for the choice; each network once
    row = result["rows"][1]
    digits = load_digits()
    x, y = digits.train_x[300:400], digits.train_y[300:400]
    (tried,) = row["tried"]
    for j, each in enumerate(tried):
        model = trained(out, f"row1-{j}.pt")
        assert each["accuracy"] == pytest.approx(100 * accuracy(model, x, y))
        assert each["rank"] == pytest.approx(100 * rho_adv(model, x[:20]))
    far, near = sorted(tried, key=lambda each: -each["rank"])
    assert row["lam"] == [far["lam"]]
    name = f"row1-{tried.index(far)}.pt"
    test = 100 * accuracy(trained(out, name), digits.test_x, digits.test_y)
    assert row["ours"][0] == pytest.approx(test)
    said = f"on the first 20 of them: penalty {far['lam']:g}"
    images = "100 training images held out"
    assert f"Weights chosen by the accuracy on {images} and rho_adv {said}" in show.text(result)
    ones = torch.ones(1, 1, 28, 28)
    assert torch.equal(networks(result, out)["penalty"](ones), trained(out, name)(ones))
    for file in ("row1.json", "row1-chosen.json"):
        (out / "seed0" / file).unlink()  # trained, and not yet chosen
    assert reproduce("mine", out, quick=True) == result
    assert len(lengths) == 4
    assert near["accuracy"] > far["accuracy"] + 1
    base = 100 * accuracy(trained(out, "base.pt"), x, y)
    between = base - (near["accuracy"] + far["accuracy"]) / 2
    (tables / "mine.toml").write_text(several(1.0, 10.0, tolerance=between))
    assert reproduce("mine", other, quick=True)["rows"][1]["lam"] == [near["lam"]]


def test_weights_are_tried_in_shorter_phases(tables, tmp_path, monkeypatch):
    """Each for an epoch, and the chosen one for the row's two: its figures are of those two."""
    phases = []

    def watched(model, x, y, *, epochs, save, **options):
        phases.append((save.name, epochs))
        return fit(model, x, y, epochs=epochs, save=save, **options)

    monkeypatch.setattr("jacfast.reproduce.seed.fit", watched)
    text = several(1.0, 10.0, tolerance=100.0).replace("tolerance", "trial_epochs = 1\ntolerance")
    (tables / "mine.toml").write_text(text.replace("lam = [", "epochs = 2\nlam = ["))
    out = tmp_path / "run"
    row = reproduce("mine", out, quick=True)["rows"][1]
    chosen = [1.0, 10.0].index(row["lam"][0])
    assert phases[:4] == [
        ("base.pt", 2), ("row1-0-trial.pt", 1), ("row1-1-trial.pt", 1), (f"row1-{chosen}.pt", 2)
    ]  # fmt: skip
    digits = load_digits()
    x, y = digits.train_x[300:400], digits.train_y[300:400]
    for j, each in enumerate(row["tried"][0]):
        model = trained(out, f"row1-{j}-trial.pt")
        assert each["accuracy"] == pytest.approx(100 * accuracy(model, x, y))
    model = trained(out, f"row1-{chosen}.pt")
    test = 100 * accuracy(model, digits.test_x, digits.test_y)
    assert row["ours"][0] == pytest.approx(test)


def test_a_row_has_the_weight_that_was_chosen_for_another(tables, tmp_path):
    """The same weight and the same phase give the same network; it is not tried again."""
    head, tail = several(1.0, 10.0, tolerance=100.0).split('[[rows]]\nname = "from')
    like = '[[rows]]\nname = "like"\npaper = ["", "", "", ""]\n'
    like += 'penalty = { name = "Frobenius" }\nlam = "penalty"\n'
    (tables / "mine.toml").write_text(f'{head}{like}[[rows]]\nname = "from{tail}')
    out = tmp_path / "run"
    result = reproduce("mine", out, quick=True)
    _, chosen, same, _ = result["rows"]
    assert same["lam"] == chosen["lam"] != [0.0]
    assert "tried" not in same
    assert same["ours"] == chosen["ours"]
    assert f"penalty {chosen['lam'][0]:g}; like {chosen['lam'][0]:g}" in show.text(result)


def test_rows_with_one_attack_on_one_network_share_its_images(tables, tmp_path, monkeypatch):
    """Of five phases the first two; the others have another share, attack, network."""
    made, images = [], []

    def attacked(training, model, x, y):
        made.append(training.attack["eps"])
        return parts.attacked(training, model, x, y)

    def watched(model, x, y, **options):
        images.append(x)
        return fit(model, x, y, **options)

    row = '[[rows]]\nname = "{}"\npaper = ["", "", "", ""]\nonce = true\n'
    row += 'attack = {{ name = "fgsm", eps = {} }}\n{}\n'
    more = [("a", 0.1, ""), ("b", 0.1, "lr = 1e-4"), ("half", 0.1, "share = 0.5")]
    more += [("c", 0.2, ""), ("d", 0.2, "fresh = true")]
    text = TABLE.replace("seeds = [0, 1]", "")
    head, tail = text.split("[[curves]]")
    rows = "".join(row.format(*each) for each in more)
    (tables / "mine.toml").write_text(f"{head}{rows}[[curves]]{tail}")
    monkeypatch.setattr("jacfast.reproduce.seed.parts", SimpleNamespace(**vars(parts)))
    monkeypatch.setattr("jacfast.reproduce.seed.parts.attacked", attacked)
    monkeypatch.setattr("jacfast.reproduce.seed.fit", watched)
    reproduce("mine", tmp_path / "run", quick=True)
    assert made == [0.1, 0.1, 0.2, 0.2]
    a, b, half, c, d = images[-5:]
    assert torch.equal(a, b)
    assert not torch.equal(b, half)
    assert not torch.equal(a, c)
    assert not torch.equal(c, d)


def test_of_weights_that_all_cost_too_much_the_cheapest_is_chosen(tables, tmp_path):
    (tables / "mine.toml").write_text(several(1e3, 100.0, tolerance=0.0))
    row = reproduce("mine", tmp_path / "run", quick=True)["rows"][1]
    (tried,) = row["tried"]
    assert row["lam"] == [max(tried, key=lambda each: each["accuracy"])["lam"]]


def test_all_images_held_out(tables, tmp_path):
    (tables / "mine.toml").write_text(TABLE.replace("seeds = [0, 1]", "validation = 400"))
    with pytest.raises(
        ValueError, match=r"validation must leave .*, of which there are 400; got 4"
    ):
        reproduce("mine", tmp_path / "run", quick=True)


def test_pictures_are_of_the_weight_that_the_first_seed_has_chosen(tmp_path):
    lams, saved = [0.1, 0.2], {}
    for seed in (3, 4):
        (tmp_path / f"seed{seed}").mkdir()
        for j in range(len(lams)):
            saved[seed, j] = models.fc500()
            file = tmp_path / f"seed{seed}" / f"row0-{j}.pt"
            torch.save({"model": saved[seed, j].state_dict()}, file)
    about = {"seeds": [3, 4], "model": "jacfast.models:fc500", "pictured": ["a"]}
    about["rows"] = [{"name": "a", "lams": lams, "training": {"lam": 0.1}}]
    found = networks({"table": about, "rows": [{"lam": [0.2, 0.1]}]}, tmp_path)["a"]
    ones = torch.ones(1, 1, 28, 28)
    assert torch.equal(found(ones), saved[3, 1](ones))
