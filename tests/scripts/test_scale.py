"""docs/scale.md and the simulation behind it: by hand, and against the files that are written."""

import json
import re

import pytest
import torch

import jacfast
from benchmarks import stragglers
from benchmarks.stragglers import drawn, ideal, makespan
from jacfast import models
from tests.scripts.loading import ROOT, script

PAGE = (ROOT / "docs" / "scale.md").read_text()
RESULTS = json.loads((ROOT / "benchmarks" / "results" / "stragglers.json").read_text())


@pytest.mark.parametrize(
    ("batches", "speeds", "stride", "queue"),
    [
        ([3, 1, 1, 1], [1, 1], 4, 3),  # 3 + 1 and 1 + 1; 3 and 1 + 1 + 1
        ([1, 1, 1, 3], [1, 1], 4, 4),  # the long one comes last
        ([2, 2, 2], [1, 1], 4, 4),
        ([1, 1, 1, 1, 1, 1], [1, 0.5], 6, 4),  # three batches of 2 s; four of 1 s beside two of 2 s
        ([5], [1, 1, 1], 5, 5),
        ([], [1, 1], 0, 0),
    ],
)
def test_makespans_by_hand(batches, speeds, stride, queue):
    assert makespan(batches, speeds, queue=False) == stride
    assert makespan(batches, speeds, queue=True) == queue


def test_the_ideal_cuts_batches_anywhere():
    assert ideal([3, 1, 1, 1], [1, 1]) == 3
    assert ideal([1, 1, 1], [1, 0.5]) == 2


def test_a_batch_costs_all_its_samples_or_the_slowest():
    assert drawn([2], 4, 10, "work", 0) == [8, 8, 4]
    assert drawn([2], 4, 10, "calls", 0) == [2, 2, 2]
    assert drawn([0, 9], 64, 640, "work", 0) != drawn([0, 9], 64, 640, "work", 1)


def test_a_simulation_is_held_against_processes(monkeypatch):
    monkeypatch.setattr(stragglers, "napped", lambda naps, processes: 1.2 * sum(naps) / processes)
    with pytest.raises(AssertionError, match=r"\(1, "):
        stragglers.verify([1, 2, 3])


def test_the_table_and_figures_are_those_of_the_results():
    assert script("figures").straggler_table(RESULTS) in PAGE
    processes = RESULTS["processes"].values()
    over = [100 * (each["processes_s"] / each["simulated_s"] - 1) for each in processes]
    assert f"They were {min(over):.0f} to {max(over):.0f}% slower than simulated" in PAGE
    assert "were {measured:.2f} times as fast as one".format(**RESULTS["two"]) in PAGE
    assert "shared memory and caches, says {simulated:.2f}".format(**RESULTS["two"]) in PAGE
    least, *_, most = RESULTS["iterations"]
    assert f"took of 1,000 digits, from {least} to {most}." in PAGE


def test_the_size_of_a_file_is_that_of_real_ones(capsys):
    """The block of the page compares, and prints that of ImageNet."""
    (block,) = (b for b in re.findall("```python\n(.*?)```", PAGE, flags=re.S) if "size_of" in b)
    space = {"torch": torch, "jacfast": jacfast, "models": models}
    exec(compile(block, "scale.md", "exec"), space)
    assert "5,005 files of 310 MB, 1.55 TB" in capsys.readouterr().out
    assert f"are {38 * 1_281_167 / 1e6:.0f} MB" in PAGE
