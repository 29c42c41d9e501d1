"""A table of a small network from beginning to end, interrupted, and refused."""

import base64
import dataclasses
import functools
import json
import re

import pytest
import torch

from jacfast import cli, models
from jacfast import reproduce as reproduce_package
from jacfast.attacks import deepfool, fgsm
from jacfast.data import load_digits
from jacfast.evaluation import accuracy, roc_curves
from jacfast.reproduce import config, networks, parts, reproduce, run, show
from jacfast.training import fit
from tests.reproduce.table import TABLE, one_more_row, trained


@pytest.mark.usefixtures("tables")
def test_a_run_and_what_it_leaves(tmp_path, capsys):
    out = tmp_path / "run"
    assert cli.main(["reproduce", "mine", "--quick", "--out", str(out)]) == 0
    result = json.loads((out / "result.json").read_text())
    rows = {row["name"]: row for row in result["rows"]}
    assert rows["penalty"]["ours"][1] > rows["no defence"]["ours"][1]
    assert rows["penalty"]["sd"][1] > 0  # two seeds
    assert rows["penalty"]["ours"][3] <= 50  # at its own eps_ref
    printed = capsys.readouterr().out
    assert show.text(result) in printed
    assert "from the start" in printed
    for row in result["rows"]:  # the same attack on the same images as in a column
        assert 100 * row["curves"][0][1] == pytest.approx(row["ours"][2])
    assert (out / "fgsm.png").read_bytes().startswith(b"\x89PNG")
    page = (out / "report.html").read_text()
    assert "Accuracy under FGSM" in page
    assert "rho_adv x 100" in page
    assert not re.search(r"(src|href)=.http", page)
    assert (out / "table.png").read_bytes().startswith(b"\x89PNG")


def test_networks_that_know_no_image_have_figures_and_no_pictures(
    tables, tmp_path, monkeypatch, capsys
):
    text = one_more_row('attack = { name = "fgsm", eps = 0.1 }')
    (tables / "mine.toml").write_text(text.replace('["perturbations"]', '["decision"]'))
    wrong = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(784, 11))
    torch.nn.init.zeros_(wrong[1].weight)
    wrong[1].bias.data = torch.arange(11.0)  # an eleventh digit, always
    monkeypatch.setattr(reproduce_package, "networks", lambda *_: {"last": wrong})
    out = tmp_path / "run"
    assert cli.main(["reproduce", "mine", "--quick", "--out", str(out)]) == 0
    assert "mine: without pictures, as no test image is classified" in capsys.readouterr().err
    assert {file.name for file in out.glob("*.png")} == {"table.png", "fgsm.png"}
    assert "Accuracy under FGSM" in (out / "report.html").read_text()


@pytest.mark.usefixtures("tables")
def test_figures_are_those_of_the_weights(tmp_path):
    out = tmp_path / "run"
    result = reproduce("mine", out, quick=True)
    found = []
    for seed in (0, 1):
        model = models.fc500()
        model.load_state_dict(torch.load(out / f"seed{seed}" / "row1.pt")["model"])
        digits = load_digits()
        found.append(100 * accuracy(model, digits.test_x, digits.test_y))
    assert result["rows"][1]["ours"][0] == pytest.approx(sum(found) / 2)


RECIPE = [
    *('optimizer = "sgd"', "momentum = 0.9", 'schedule = "one-cycle"', "lr = 0.01"),
    *("weight_decay = 1e-4", "crop_padding = 2", "horizontal_flip = true", "smoothing = 0.1"),
    'precision = "bfloat16"',
]


@pytest.mark.parametrize("recipe", [[], RECIPE], ids=["plain", "recipe"])
def test_the_same_call_goes_on_where_it_stopped(tables, tmp_path, monkeypatch, recipe):
    text = TABLE.replace("[every_row]", "\n".join(["[every_row]", *recipe]))
    (tables / "mine.toml").write_text(text)
    whole, parted = tmp_path / "whole", tmp_path / "parted"
    want = reproduce("mine", whole, quick=True)
    loss, steps = parts.loss, []

    def counted(training, stop_at=None):
        def step(*batch):
            steps.append(training)
            if len(steps) == stop_at:
                raise KeyboardInterrupt
            return loss(training)(*batch)

        return step

    monkeypatch.setattr(parts, "loss", functools.partial(counted, stop_at=20))
    with pytest.raises(KeyboardInterrupt):  # 16 steps of the base are done, 3 of the first row
        reproduce("mine", parted, quick=True)
    monkeypatch.setattr(parts, "loss", counted)
    got = reproduce("mine", parted, quick=True)
    assert len(steps) == 20 + 8 + 8 + 16 + 8 + 8  # what was done is not trained again
    assert got == want
    for file in whole.glob("seed*/*.pt"):
        weights, same = (torch.load(run / file.relative_to(whole)) for run in (whole, parted))
        for name, value in weights["model"].items():
            assert torch.equal(same["model"][name], value)


def test_a_processor_without_bfloat16_trains_in_float32_and_the_run_says_so(
    tables, tmp_path, monkeypatch
):
    plain = reproduce("mine", tmp_path / "plain", quick=True)
    (tables / "mine.toml").write_text(TABLE.replace("[every_row]", "[every_row]\n" + RECIPE[-1]))
    figures = {}
    for has in (True, False):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda has=has: {"avx512_bf16": has})
        result = reproduce("mine", out := tmp_path / f"{has}", quick=True)
        figures[result["precision"]] = [row["ours"] for row in result["rows"]]
        assert f", products in {result['precision']}" in show.text(result)
    assert figures["float32"] == [row["ours"] for row in plain["rows"]] != figures["bfloat16"]
    assert "precision" not in plain
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True})
    with pytest.raises(ValueError, match="precision was 'float32' and is now 'bfloat16'"):
        reproduce("mine", out, quick=True)


def test_refused(tables, tmp_path, capsys):
    out = tmp_path / "run"
    reproduce("mine", out, quick=True)
    (tables / "mine.toml").write_text(TABLE.replace('title = "a table"', 'title = "other words"'))
    assert reproduce("mine", out, quick=True)["table"]["title"] == "other words"
    (tables / "mine.toml").write_text(TABLE.replace("lam = 0.1", "lam = 0.2"))
    before = (out / "result.json").read_bytes()
    for call, message in [
        (["mine", "--quick", "--out", str(out)], "belongs to another run: rows was"),
        (["mine", "--out", str(out)], "data must be a folder with MNIST, as in the paper; got no"),
        (["mine"], "--out must be a folder for the run; got none"),
        (["yours", "--out", str(out)], "name must be one of mine; got 'yours'"),
    ]:
        assert cli.main(["reproduce", *call]) == 2
        assert message in capsys.readouterr().err
    assert (out / "result.json").read_bytes() == before
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "report.html").write_text("of something else")
    with pytest.raises(
        ValueError, match=r"out must be empty or of the same run; .*/mine holds other files"
    ):
        reproduce("mine", tmp_path / "mine", quick=True)
    assert [file.name for file in (tmp_path / "mine").iterdir()] == ["report.html"]
    (tables / "mine.toml").write_text(TABLE.replace('data = "MNIST"', 'data = "CIFAR-10"'))
    assert cli.main(["reproduce", "mine", "--quick", "--out", str(tmp_path / "other")]) == 2
    assert "data must be CIFAR-10, as in the paper; got MNIST digits" in capsys.readouterr().err


@pytest.mark.usefixtures("tables")
def test_other_images_under_the_same_name_are_refused(tmp_path, monkeypatch):
    reproduce("mine", tmp_path / "run", quick=True)
    digits = load_digits()
    other = dataclasses.replace(digits, test_x=digits.test_x.flip(0))
    monkeypatch.setattr(run.data, "load", lambda _folder: other)
    with pytest.raises(ValueError, match="belongs to another run: checksum was"):
        reproduce("mine", tmp_path / "run", quick=True)


@pytest.mark.usefixtures("tables")
def test_another_number_of_threads_is_refused(tmp_path, monkeypatch):
    before = reproduce("mine", tmp_path / "run", quick=True)
    assert before["threads"] == torch.get_num_threads()
    threads = before["threads"] + 1
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    message = f"threads was {threads - 1} and is now {threads}"
    with pytest.raises(ValueError, match=message):
        reproduce("mine", tmp_path / "run", quick=True)
    assert json.loads((tmp_path / "run" / "result.json").read_text()) == before


def test_images_that_are_attacked_once(tables, tmp_path, monkeypatch):
    lines = ['attack = { name = "fgsm", eps = 0.1 }', "once = true", "share = 0.5"]
    (tables / "mine.toml").write_text(one_more_row(*lines))
    seen = {}

    def watched(model, x, y, **options):
        seen[options["name"]] = x
        return fit(model, x, y, **options)

    monkeypatch.setattr("jacfast.reproduce.seed.fit", watched)
    reproduce("mine", tmp_path / "run", quick=True)
    digits = load_digits()
    x, y = digits.train_x[:400], digits.train_y[:400]
    moved = fgsm(trained(tmp_path / "run", "base.pt"), x[:200], y[:200], eps=0.1)
    torch.testing.assert_close(seen["last"], torch.cat([moved, x[200:]]))
    assert torch.equal(seen["penalty"], x)
    measured = (row := tmp_path / "run" / "seed0" / "row3.json").read_text()
    row.unlink()  # trained, and not yet measured
    seen.clear()
    reproduce("mine", tmp_path / "run", quick=True)
    assert not seen  # what is trained is neither attacked nor trained again
    assert row.read_text() == measured


def test_nothing_is_drawn_from_the_user_s_generator(tables, tmp_path):
    """Neither by attacks with a random start, made once or in a curve, nor by networks."""
    lines = ['attack = { name = "pgd", eps = 0.1, steps = 1, step_size = 0.01 }', "once = true"]
    text = one_more_row(*lines).replace('[[curves]]\nattack = "fgsm"', '[[curves]]\nattack = "pgd"')
    options = "[curves.options]\nsteps = 1\nstep_size = 0.01\n"
    (tables / "mine.toml").write_text(text.replace("[quick]", f"{options}[quick]"))
    weights = []
    for name in ("a", "b"):
        torch.manual_seed(len(weights))  # the user's, another in each call
        before = torch.get_rng_state()
        result = reproduce("mine", tmp_path / name, quick=True)
        assert torch.equal(torch.get_rng_state(), before)
        networks(result, tmp_path / name)
        assert torch.equal(torch.get_rng_state(), before)
        weights.append(trained(tmp_path / name, "row3.pt").state_dict())
    for key, value in weights[0].items():
        assert torch.equal(value, weights[1][key])


@pytest.mark.slow
def test_columns_that_measure_by_a_reference(tables, tmp_path):
    columns = '"auc", "auc 3", "gradient_zeros 10", "hessian_zeros 60", "gradient_norm"'
    lines = ['penalty = { name = "Frobenius" }', "lam = 1.0"]
    text = one_more_row(*lines, columns=columns, paper="1.0, 1.0, 1.0, 1.0, 1.0")
    text = text.replace('reference = "penalty"', 'reference = "no defence"')
    (tables / "mine.toml").write_text(text.replace("samples = 20\n", "samples = 100\n"))
    rows = reproduce("mine", tmp_path / "run", quick=True)["rows"]
    base, last = rows[0]["ours"], rows[-1]["ours"]
    digits = load_digits()
    x, y = digits.test_x[:100], digits.test_y[:100]
    moved = deepfool(trained(tmp_path / "run", "base.pt"), x).adversarial
    curves = roc_curves(trained(tmp_path / "run", "row3.pt"), moved, y)
    assert last[1] == pytest.approx(curves[3].auc)
    assert last[0] == pytest.approx(sum(curve.auc for curve in curves.values()) / len(curves))
    assert base[2:4] == pytest.approx([10, 60], abs=0.1)  # what the thresholds are made from
    assert last[2] > 12
    assert last[3] > 62
    assert last[4] < base[4]


def test_a_class_without_an_image_has_no_auc(tables, tmp_path):
    text = one_more_row("lam = 0.0", columns='"auc", "auc 3"', paper="1.0, 1.0")
    labels = load_digits().test_y
    first = int((labels != labels[0]).nonzero()[0]) + 1  # so many images hold two classes
    absent = min({*range(10)} - {*labels[:first].tolist()})
    text = text.replace("auc 3", f"auc {absent}").replace("samples = 20\n", f"samples = {first}\n")
    (tables / "mine.toml").write_text(text)
    message = f"samples must .* class {absent}, .*; the first {first} test images hold none"
    with pytest.raises(ValueError, match=message):
        reproduce("mine", tmp_path / "run", quick=True)


def test_a_column_without_the_reference_that_it_needs(tables, tmp_path):
    text = one_more_row("lam = 0.0", columns='"auc"').replace('reference = "penalty"', "")
    (tables / "mine.toml").write_text(text)
    with pytest.raises(ValueError, match=r"reference must name a row .*; got none"):
        reproduce("mine", tmp_path / "run", quick=True)


def test_pictures_of_the_networks_in_the_report(tables, tmp_path):
    (tables / "mine.toml").write_text(one_more_row("lam = 0.0"))
    out = tmp_path / "run"
    assert cli.main(["reproduce", "mine", "--quick", "--out", str(out)]) == 0
    picture = (out / "perturbations.png").read_bytes()
    page = (out / "report.html").read_text()
    assert base64.b64encode(picture).decode() in page
    assert "a table (--quick: less training, fewer images)</h1>" in page
    result = json.loads((out / "result.json").read_text())
    ((name, network),) = networks(result, out).items()
    assert name == "last"
    assert torch.equal(
        network(torch.ones(1, 1, 28, 28)), trained(out, "row3.pt")(torch.ones(1, 1, 28, 28))
    )


@pytest.mark.usefixtures("tables")
def test_the_tables_are_listed(capsys):
    assert cli.main(["reproduce"]) == 0
    assert capsys.readouterr().out.split() == ["mine", "nobody:", "a", "table"]


def test_the_eps_that_a_row_was_trained_against(tables, tmp_path):
    own = TABLE.replace('"fgsm 1.0 ref"]\nreference = "penalty"', '"fgsm own"]')
    rows = own.split("[[rows]]")
    both = [row.replace("eps = 0.1", "eps = 0.05") for row in (rows[0], rows[3])]
    (tables / "mine.toml").write_text("[[rows]]".join(both))
    (row,) = reproduce("mine", tmp_path / "run", quick=True)["rows"]
    assert row["ours"][3] == row["ours"][2]  # that at 0.05


@pytest.mark.slow
def test_a_table_of_the_repository(tmp_path, monkeypatch):
    """The quick form, as `jacfast reproduce NAME --quick` runs it; its figures mean little.

    Without three rows that differ from the others by their weight alone.
    """
    kept = ["lambda 0", "lambda 10", "lambda 1000"]

    def fewer(name, quick):
        table = config.load(name, quick)
        return dataclasses.replace(table, rows=[row for row in table.rows if row.name in kept])

    monkeypatch.setattr(run, "load", fewer)
    result = reproduce("seck-table4", tmp_path, quick=True)
    assert [row["name"] for row in result["rows"]] == kept
    figures = {row["name"]: row["ours"] for row in result["rows"]}
    assert min(clean for clean, _ in figures.values()) > 50
    assert figures["lambda 0"][1] > 20  # a tenth would be chance
    assert figures["lambda 1000"][1] < figures["lambda 10"][1]  # as in the paper


@pytest.mark.slow
def test_a_network_that_is_exported(tables, tmp_path, monkeypatch):
    """It refuses train() and eval(): as it was exported, so it runs."""

    def exported(_):
        shapes = ({0: torch.export.Dim("batch")},)
        x = torch.rand(2, 1, 28, 28)
        return torch.export.export(models.mlp(784, 8, 10), (x,), dynamic_shapes=shapes).module()

    text = one_more_row('penalty = { name = "Frobenius" }', "lam = 0.1")
    (tables / "mine.toml").write_text(text)
    monkeypatch.setattr(models, "load_factory", exported)
    result = reproduce("mine", tmp_path / "run", quick=True)
    assert [row["name"] for row in result["rows"]][-1] == "last"
    network = networks(result, tmp_path / "run")["last"]
    assert not network.training
    assert network(torch.rand(3, 1, 28, 28)).shape == (3, 10)
