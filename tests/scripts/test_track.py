"""make bench-track: what is a regression, and what is not."""

import json
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from benchmarks import track

STEP = "benchmarks/test_steps.py::test_step[seck_c-Frobenius(n=1): jacfast, eager]"
OP = "benchmarks/test_ops.py::test_op[[50, 10, 3072]-deepfool_step]"
RIVALS = (
    "benchmarks/test_steps.py::test_step[seck_c-plain step]",
    "benchmarks/test_steps.py::test_step[seck_c-Frobenius(n=1): one vector by autograd]",
    "benchmarks/test_ops.py::test_op[[50, 10, 3072]-deepfool_step, eager]",
)
BEFORE = dict.fromkeys((STEP, OP, *RIVALS), 1.0)


def times(factor, **changed):
    return {name: factor * changed.get(name, 1.0) for name in BEFORE}


def test_ours_and_rivals():
    assert track.is_ours(STEP)
    assert track.is_ours(OP)
    assert not any(map(track.is_ours, RIVALS))


def test_a_regression_beyond_the_noise_is_found():
    first, second = times(1.0, **{STEP: 1.3}), times(1.05, **{STEP: 1.3})
    assert track.noise(first, second) == pytest.approx(1.05)
    assert track.slower(BEFORE, first, second) == {STEP: pytest.approx(1.3)}


def test_what_the_noise_explains_is_none():
    first, second = times(1.0, **{STEP: 1.3}), times(1.4, **{STEP: 1.3})
    assert track.slower(BEFORE, first, second) == {}


def test_a_slower_machine_is_none():
    first, second = times(2.0), times(2.1)
    assert track.drift(BEFORE, first, second) == pytest.approx(2.0)
    assert track.slower(BEFORE, first, second) == {}
    first, second = times(2.0, **{OP: 1.5}), times(2.1, **{OP: 1.5})
    assert track.slower(BEFORE, first, second) == {OP: pytest.approx(1.5)}


def test_most_of_all_slower_is_no_slower_machine():
    """It shows in the rivals alone, however few they are beside ours."""
    ours = {f"benchmarks/test_ops.py::test_op[[{n}]-row_norm]": 1.3 for n in range(9)}
    now = times(1.0) | ours
    assert track.slower(BEFORE | dict.fromkeys(ours, 1.0), now, now) == pytest.approx(ours)


def test_slower_in_one_round_only_is_none():
    first, second = times(1.0, **{STEP: 1.3}), times(1.0)
    assert track.slower(BEFORE, first, second) == {}


@pytest.fixture
def storage(tmp_path, monkeypatch):
    """Saved runs by number, and pytest that saves `rounds` one after the other."""
    folder = tmp_path / "Linux-CPython-3.11-64bit"
    folder.mkdir()
    rounds: list[dict[str, float]] = []

    def save(path, medians):
        rows = [{"fullname": n, "stats": {"median": m}} for n, m in medians.items()]
        path.write_text(json.dumps({"benchmarks": rows}))

    def run(command, check):
        option = next(
            word for word in command if word.startswith(("--benchmark-j", "--benchmark-s"))
        )
        number = len(list(folder.iterdir())) + 1
        path = option.partition("=")[2] if "json" in option else folder / f"{number:04}_track.json"
        save(Path(path), rounds.pop(0))
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(track, "STORAGE", tmp_path)
    monkeypatch.setattr(track.subprocess, "run", run)
    return folder, rounds, save


def test_runs_follow_each_other(storage, capsys):
    folder, rounds, save = storage
    rounds += [times(1.0), times(1.0)]
    assert track.main([]) == 0
    assert "nothing to compare with yet" in capsys.readouterr().out
    rounds += [times(1.0, **{STEP: 1.5}), times(1.1, **{STEP: 1.5})]
    assert track.main([]) == 1
    assert STEP in capsys.readouterr().out
    assert [path.name for path in folder.iterdir()] == ["0001_track.json"]  # not the slower one
    rounds += [times(1.0), times(1.02)]
    assert track.main([]) == 0
    capsys.readouterr()
    save(folder / "0003_mine.json", times(1.0))  # by --benchmark-save
    (folder / "notes.json").write_text("{}")
    rounds += [times(1.0), times(1.02)]
    assert track.main([]) == 0
    assert f"compared with {folder / '0003_mine.json'}, in 5 of 5 names" in capsys.readouterr().out


def test_a_run_of_another_python_is_no_run_of_before(storage, capsys):
    """pytest-benchmark numbers the runs of each folder, and there is one for each Python."""
    folder, rounds, save = storage
    other = folder.parent / "Linux-CPython-3.10-64bit"
    other.mkdir()
    save(other / "0007_track.json", times(1.0))
    rounds += [times(1.0), times(1.0)]
    assert track.main([]) == 0
    assert "nothing to compare with yet" in capsys.readouterr().out
    rounds += [times(1.0, **{STEP: 1.5}), times(1.1, **{STEP: 1.5})]
    assert track.main([]) == 1
    assert f"compared with {folder / '0001_track.json'}" in capsys.readouterr().out
    assert [path.name for path in folder.iterdir()] == ["0001_track.json"]
    assert [path.name for path in other.iterdir()] == ["0007_track.json"]


def test_a_run_of_few_is_not_what_a_run_of_all_is_compared_with(storage, capsys):
    folder, rounds, _ = storage
    rounds += [times(1.0), times(1.0)]
    assert track.main([]) == 0
    few = dict.fromkeys((OP, RIVALS[2]), 1.0)
    rounds += [few, few]
    assert track.main(["-k", "ops"]) == 0
    assert f"compared with {folder / '0001_track.json'}, in 2 of 2 names" in capsys.readouterr().out
    rounds += [times(1.0, **{STEP: 1.5}), times(1.1, **{STEP: 1.5})]
    assert track.main([]) == 1
    assert f"compared with {folder / '0001_track.json'}, in 5 of 5 names" in capsys.readouterr().out
    rounds += [few, few]
    assert track.main(["-k", "ops"]) == 0
    assert f"compared with {folder / '0002_track.json'}, in 2 of 2 names" in capsys.readouterr().out
    more = times(1.0) | {"benchmarks/test_ops.py::test_op[[1]-a new one]": 1.0}
    rounds += [more, more]
    assert track.main([]) == 0
    assert f"compared with {folder / '0001_track.json'}, in 5 of 6 names" in capsys.readouterr().out


def test_pytest_benchmark_runs_them():
    """One of each, not timed: they are collected, verified and called."""
    pytest.importorskip("pytest_benchmark")
    words = ["-k", "seck_c and (plain or JacobianReg) or copy and 50", "--benchmark-disable"]
    command = [sys.executable, "-m", "pytest", "benchmarks", "-q", "-p", "no:cacheprovider"]
    done = subprocess.run([*command, *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    assert "4 passed" in done.stdout


def test_the_tests_do_not_run_them():
    found = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())
    assert found["tool"]["pytest"]["ini_options"]["testpaths"] == ["tests"]
