"""Tables of data sets that are not at hand, by the commands of the documents, on made-up files."""

import dataclasses
import json
import math
import re
import shlex

import pytest

from jacfast import cli, data
from jacfast.data.cifar import CIFAR100
from jacfast.reproduce import data_sets, every, load, reproduce
from tests.data.files import write_cifar, write_mnist
from tests.scripts.loading import ROOT

PAGE = (ROOT / "docs" / "reproduction.md").read_text()
COMMANDS = {
    key: shlex.split(line)[1:]
    for key, line in re.findall(r"^    (?=jacfast reproduce ([\w-]+))(.*)$", PAGE, re.MULTILINE)
}


@pytest.mark.slow
def test_cifar100(tmp_path, monkeypatch):
    rows = made("jg-table10", tmp_path, monkeypatch, write_cifar, CIFAR100, 12, "CIFAR-100")
    assert [row["name"] for row in rows] == ["Jacobian", "Jacobian + AT"]
    assert all(row["lam"][0] in (0.00177, 0.0177) for row in rows)
    assert all(math.isfinite(value) for row in rows for value in row["ours"])


def test_fashion_mnist(tmp_path, monkeypatch):
    rows = made("deep-defense", tmp_path, monkeypatch, write_mnist, "MNIST format, fashion-mnist")
    assert [row["name"] for row in rows] == ["adversarial training", "Deep Defense"]
    assert 0 <= rows[1]["ours"][2] <= 100  # under FGSM at a part of its eps_ref


def test_images_of_ones_own_are_no_data_set_of_a_table(tmp_path, monkeypatch):
    split = dataclasses.replace(data.load(write_mnist(tmp_path)), name="images, mine")
    monkeypatch.setattr(data, "load", lambda _: split)
    with pytest.raises(ValueError, match=r"a data set that a table needs; got images$"):
        every.plan([tmp_path], tmp_path / "out")


@pytest.fixture
def fashion(tmp_path, monkeypatch):
    """A folder in the format of MNIST of which the checksum says that it is Fashion-MNIST."""
    folder = write_mnist(tmp_path / "fashion" / "raw")
    monkeypatch.setitem(data_sets.KNOWN, data.load(folder).checksum, "Fashion-MNIST")
    return folder


def test_fashion_mnist_is_known_where_the_paper_has_mnist(fashion, tmp_path):
    out, other = tmp_path / "run", write_mnist(tmp_path / "other", train=30)
    words = "data must be MNIST, as in the paper; got Fashion-MNIST: MNIST format, fashion/raw"
    with pytest.raises(ValueError, match=words):
        reproduce("jg-table1", out, fashion, quick=True)
    assert not out.exists()
    data_sets.check(load("jg-table1"), data.load(other))  # unknown: of MNIST itself, perhaps
    for table in ("deep-defense", "deep-defense-auc"):
        for folder in (fashion, other, None):
            data_sets.check(load(table), data.load(folder))
    cifar = write_cifar(tmp_path / "cifar", CIFAR100)
    words = "data must be Fashion-MNIST, as in the paper, or MNIST; got CIFAR-100"
    with pytest.raises(ValueError, match=words):
        reproduce("deep-defense", out, cifar, quick=True)
    words = "data must be a folder with Fashion-MNIST, as in the paper, or MNIST; got none"
    with pytest.raises(ValueError, match=words):
        reproduce("deep-defense", out)


@pytest.mark.parametrize("quick", [False, True])
def test_all_tables_of_both(fashion, tmp_path, quick):
    """Deng, Zhang & Zhao's are made of Fashion-MNIST, the others of MNIST."""
    mnist = write_mnist(tmp_path / "mnist", train=10000)
    planned, left_out = every.plan([mnist, fashion], tmp_path / "out", quick)
    places = {each.table.key: each.folder for each in planned}
    assert {key for key, place in places.items() if place == fashion} == {
        "deep-defense", "deep-defense-auc"
    }  # fmt: skip
    assert places["jg-table1"] == mnist
    assert left_out["jg-table10"] == "needs CIFAR-100, which is not among the data"
    alone, left_out = every.plan([fashion], tmp_path / "out", quick)
    places = {each.table.key: each.folder for each in alone}
    assert places["deep-defense"] == fashion
    assert places.get("jg-table1", "none") == (None if quick else "none")
    if not quick:
        assert left_out["jg-table1"] == "needs MNIST, which is not among the data"


def made(key, tmp_path, monkeypatch, writer, *rest):
    """Run the page's command beside a folder of its name: its last two rows, on two images."""

    def smaller(name, quick):
        table = load(name, quick)
        held, curves = min(table.validation, 4), table.curves
        fewer = {"samples": 2, "validation": held}
        fewer["curves"] = [dataclasses.replace(curve, samples=2) for curve in curves]
        return dataclasses.replace(table, rows=table.rows[-2:], **fewer)

    monkeypatch.setattr("jacfast.reproduce.run.load", smaller)
    *options, name = rest
    command = COMMANDS[key]
    writer(tmp_path / command[command.index("--data") + 1], *options)
    (tmp_path / "runs").mkdir()
    monkeypatch.chdir(tmp_path)
    assert cli.main([*command, "--quick", "--quiet"]) == 0
    out = tmp_path / command[command.index("--out") + 1]
    result = json.loads((out / "result.json").read_text())
    assert result["data"] == name
    return result["rows"]
