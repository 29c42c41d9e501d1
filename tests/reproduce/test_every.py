"""All tables by one command: in which order, how long the rest takes, and going on."""

import dataclasses
import json

import pytest
import torch

from jacfast import cli, data
from jacfast.commands.reproduce import _duration
from jacfast.data import load_digits
from jacfast.reproduce import config, every
from jacfast.reproduce.config import Row, Table, Training

TABLE = """
title = "{name}"
source = "nobody"
data = "{data}"
model = "jacfast.models:{model}"
columns = ["accuracy"]
rank = "accuracy"
samples = 20
train_samples = {samples}
[base]
batch_size = 50
[[rows]]
name = "no defence"
paper = [90.0]
[quick]
"""
FC500 = 2 * (784 * 500 + 500 * 150 + 150 * 10)  # operations of a forward pass


@pytest.fixture
def tables(tmp_path, monkeypatch):
    """Three tables: b takes three times as long as a, and z needs another data set."""
    folder = tmp_path / "tables"
    folder.mkdir()
    for name, data_set, samples in (("b", "MNIST", 300), ("a", "MNIST", 100), ("z", "CIFAR-10", 1)):
        text = TABLE.format(name=name, data=data_set, model="fc500", samples=samples)
        (folder / f"{name}.toml").write_text(text)
    monkeypatch.setattr(config, "FOLDER", folder)


def a_table(*rows, **options):
    base = {"key": "t", "title": "", "source": "", "data": "MNIST", "columns": [], "rank": ""}
    return Table(model="jacfast.models:fc500", samples=0, rows=list(rows), **base | options)


def row(training, fresh=True):
    return Row("", [], training, fresh)


def test_operations_are_counted():
    """Forward passes by hand: three a step, twice that with a penalty; attacks beside them."""
    plain, penalty = Training(epochs=2), Training(epochs=1, penalty={"name": "Frobenius"})
    assert every.operations(a_table(row(plain)), 100) == 100 * 2 * 3 * FC500
    assert every.operations(a_table(row(penalty)), 100) == 100 * 6 * FC500
    assert every.operations(a_table(row(penalty), train_samples=40), 100) == 40 * 6 * FC500
    assert every.operations(a_table(row(penalty), seeds=[0, 1]), 100) == 2 * 100 * 6 * FC500
    pgd = Training(epochs=2, attack={"name": "pgd", "steps": 5}, share=0.5)
    assert every.operations(a_table(row(pgd)), 100) == 100 * (2 * 3 + 2 * 10 * 0.5) * FC500
    once = Training(epochs=2, attack={"name": "deepfool", "steps": 5}, share=0.5, once=True)
    assert every.operations(a_table(row(once)), 100) == 100 * (2 * 3 + 20 * 0.5) * FC500
    several = a_table(Row("", [], penalty, False, [0.1, 0.2]), base=plain, validation=20)
    assert every.operations(several, 100) == 80 * (2 * 3 + 2 * 6) * FC500
    tried = dataclasses.replace(several, trial_epochs=2)  # each weight for 2, the chosen one for 1
    assert every.operations(tried, 100) == 80 * (2 * 3 + 2 * 2 * 6 + 6) * FC500
    both = a_table(row(None, fresh=False), row(plain, fresh=False), base=plain)
    assert every.operations(both, 100) == 2 * 100 * 6 * FC500


@pytest.mark.usefixtures("tables")
def test_the_cheapest_first_and_those_without_data_left_out(tmp_path):
    state = torch.get_rng_state()
    planned, left_out = every.plan([], tmp_path / "out", quick=True)
    assert [each.table.key for each in planned] == ["a", "b"]
    assert planned[1].operations > planned[0].operations > 0
    assert left_out == {"z": "needs CIFAR-10, which is not among the data"}
    assert torch.equal(torch.get_rng_state(), state)
    with pytest.raises(ValueError, match="data must hold a data set that a table needs; got none"):
        every.plan([], tmp_path / "out")


@pytest.mark.usefixtures("tables")
def test_a_data_set_given_twice_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(data, "load", lambda _: load_digits())
    folders = [tmp_path / "one", tmp_path / "two"]
    with pytest.raises(ValueError, match=r"data must hold each data set once; got MNIST in .*one"):
        every.plan(folders, tmp_path)
    planned, _ = every.plan(folders[:1], tmp_path, quick=True)
    assert {each.folder for each in planned} == {folders[0]}  # and not the digits at hand


def test_the_time_left_follows_what_was_done(monkeypatch):
    clock = [100.0]
    monkeypatch.setattr(every.time, "perf_counter", lambda: clock[0])
    each = [every.Planned(a_table(), None, operations) for operations in (0, 10, 20, 60)]
    said = []
    for planned, seconds in every.estimated(each):
        said.append(seconds)
        clock[0] += 1 if planned.operations == 0 else 2 * planned.operations
    assert said == [None, None, 2 * 80, 2 * 60]


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(1, "1 min"), (3540, "59 min"), (3600, "1 h 0 min"), (9000, "2 h 30 min")],
)
def test_the_time_left_in_words(seconds, words):
    assert _duration(seconds) == words


@pytest.mark.usefixtures("tables")
def test_the_command_goes_on_where_it_was_interrupted(tmp_path, capsys, monkeypatch):
    command = ["reproduce", "--all", "--quick", "--json", "--out", str(tmp_path / "out")]
    from jacfast import reproduce

    whole, made = reproduce.reproduce, []

    def interrupted(name, *arguments, **options):
        if name == "b" and not made:
            made.append(name)
            raise KeyboardInterrupt
        return whole(name, *arguments, **options)

    monkeypatch.setattr(reproduce, "reproduce", interrupted)
    assert cli.main(command) == 130
    said = capsys.readouterr().err
    assert "z: left out, needs CIFAR-10" in said
    assert "a, 1 of 2\n" in said
    assert "b, 2 of 2, about 1 min left\n" in said
    assert "the same command goes on from" in said
    first = (tmp_path / "out" / "a" / "seed0" / "base.pt").stat().st_mtime_ns
    assert cli.main(command) == 0
    results = json.loads(capsys.readouterr().out)
    assert [results[key]["table"]["title"] for key in ("a", "b")] == ["a", "b"]
    assert (tmp_path / "out" / "a" / "seed0" / "base.pt").stat().st_mtime_ns == first
    assert (tmp_path / "out" / "b" / "report.html").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["a", "--all", "--out", "o"], "name must be left out with --all; got a"),
        (["--out", "o"], "--out needs the name of a table, or --all; got none"),
        (["--data", "."], "--data needs the name of a table, or --all; got none"),
        (["--quick"], "--quick needs the name of a table, or --all; got none"),
        (["--all"], "--out must be a folder for the run; got none"),
        (["a", "--out", "o", "--data", ".", "."], "--data must be one folder for one table; got 2"),
    ],
)
@pytest.mark.usefixtures("tables")
def test_refused(arguments, words, capsys):
    assert cli.main(["reproduce", *arguments]) == 2
    assert words in capsys.readouterr().err
