"""Tables of data sets that are not at hand, by the commands of the documents, on made-up files."""

import dataclasses
import json
import math
import re
import shlex

import pytest

from jacfast import cli
from jacfast.data.cifar import CIFAR100
from jacfast.reproduce import load
from tests.data.files import write_cifar, write_mnist
from tests.scripts.loading import ROOT

PAGE = (ROOT / "docs" / "reproduction.md").read_text()
COMMANDS = {
    key: shlex.split(line)[1:]
    for key, line in re.findall(r"^    (?=jacfast reproduce ([\w-]+))(.*)$", PAGE, re.MULTILINE)
}


@pytest.mark.slow
def test_cifar100(tmp_path, monkeypatch):
    rows = made("jg-table10", tmp_path, monkeypatch, write_cifar, CIFAR100, 30, "CIFAR-100")
    assert [row["name"] for row in rows] == ["Jacobian", "Jacobian + AT"]
    assert all(row["lam"][0] in (0.00177, 0.0177) for row in rows)
    assert all(math.isfinite(value) for row in rows for value in row["ours"])


def test_fashion_mnist(tmp_path, monkeypatch):
    rows = made("deep-defense", tmp_path, monkeypatch, write_mnist, "MNIST format, fashion-mnist")
    assert [row["name"] for row in rows] == ["adversarial training", "Deep Defense"]
    assert 0 <= rows[1]["ours"][2] <= 100  # under FGSM at a part of its eps_ref


def made(key, tmp_path, monkeypatch, writer, *rest):
    """Run the page's command beside a folder of its name: its last two rows, on two images."""

    def smaller(name, quick):
        table = load(name, quick)
        held = min(table.validation, 10)
        return dataclasses.replace(table, rows=table.rows[-2:], samples=2, validation=held)

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
