"""The scripts that judge the CUDA build must say no where they should."""

import json
import os
import re
import subprocess
from pathlib import Path

import pytest

from tests.scripts.loading import ROOT, script

resources = script("kernel_resources")
report = script("gpu_report")
TABLE = resources.TABLE.read_text()


def test_the_table_compares_both_ways(capsys):
    nvcc = TABLE.split("(nvcc ")[1].split(")")[0]
    lines = TABLE.splitlines(keepends=True)
    row = next(i for i, line in enumerate(lines) if line.startswith("| `"))
    without = "".join(lines[:row] + lines[row + 1 :])
    resources.compare(TABLE, TABLE, nvcc)
    assert "kernels, no spill" in capsys.readouterr().out
    for old, new in ((without, TABLE), (TABLE, without), (TABLE.replace("%", ""), TABLE)):
        with pytest.raises(SystemExit, match="differs"):
            resources.compare(old, new, nvcc)
    resources.compare(TABLE, without, "12.9.1")
    assert "not compared" in capsys.readouterr().out


def test_the_table_lists_the_kernels_of_the_sources():
    sources = "".join(file.read_text() for file in ROOT.glob("csrc/kernels/*.cuh"))
    kernels = set(re.findall(r"__global__ [^;{]*?void (\w+)\(", sources))
    assert len(kernels) >= 11
    assert kernels == set(re.findall(r"^\| `(\w+)<", TABLE, re.MULTILINE))


@pytest.mark.parametrize(
    ("kernel", "registers", "shared", "share"),
    [
        ("row_norm_whole<sumsq, float>", 32, 256, 60 / 64),  # 192 threads: ten blocks of six warps
        ("row_norm_join<sumsq, float>", 64, 256, 0.5),  # 128 threads: eight blocks by registers
        ("deepfool_step_measure<double, 2>", 128, 0, 0.25),  # 256 threads: two blocks
        ("row_norm_join<sumsq, float>", 16, 60_000, 12 / 64),  # three blocks by shared memory
    ],
)
def test_occupancy(kernel, registers, shared, share):
    found = resources.Resources(registers, shared, stack=0, spills=0)
    assert resources.occupancy(kernel, found) == share


PASSED = "12 passed, 3 skipped in 3.1s"
# What the tools of compute-sanitizer close with.
SUMMARY = {
    "racecheck": "========= RACECHECK SUMMARY: 0 hazards displayed (0 errors, 0 warnings)",
    **dict.fromkeys(("memcheck", "synccheck", "initcheck"), "========= ERROR SUMMARY: 0 errors"),
}


def logs(folder: Path, **changes: tuple[int, str]) -> Path:
    """Write what gpu_check.sh leaves when all goes well, with some steps changed."""
    for name in report.EXPECTED:
        fine = (0, f"{PASSED}\n{SUMMARY.get(name, '')}\n")
        status, text = changes.get(name, fine)
        (folder / f"{name}.status").write_text(f"{status} 1\n")
        (folder / f"{name}.log").write_text(text)
    for name in report.FIGURES:
        (folder / f"{name}-cuda.json").write_text("{}")
    return folder


def test_the_gpu_report_passes_if_everything_did(tmp_path):
    assert report.main(str(logs(tmp_path)), str(tmp_path), "0") == 0
    (written,) = tmp_path.glob("*-20*.json")
    assert json.loads(written.read_text())["failures"] == []


@pytest.mark.parametrize(
    ("step", "status", "log", "said"),
    [
        ("memcheck", 9, f"{PASSED}\n========= ERROR SUMMARY: 1 error", "memcheck: status 9"),
        ("memcheck", 0, f"{PASSED}\n========= ERROR SUMMARY: 2 errors", "no summary of 0 errors"),
        ("memcheck", 0, PASSED, "memcheck: no summary of 0 errors"),
        ("synccheck", 0, "40 skipped in 1s\nERROR SUMMARY: 0 errors", "synccheck: no test passed"),
        (
            "racecheck",
            1,
            "========= Error: Device not supported",
            "racecheck: Device not supported",
        ),
        ("tests", 0, "3 skipped in 0.1s", "tests: no test passed"),
        ("tests", 1, "1 failed, 30 passed in 9s", "tests: status 1"),
        ("lives", 1, "AssertionError", "lives: status 1"),
        ("build", 124, "", "build: status 124"),
    ],
)
def test_the_gpu_report_names_what_went_wrong(tmp_path, capsys, step, status, log, said):
    folder = logs(tmp_path, **{step: (status, log)})
    assert report.main(str(folder), str(tmp_path), "0") == 1
    assert said in capsys.readouterr().out


def test_a_step_without_figures_is_named(tmp_path, capsys):
    folder = logs(tmp_path)
    (folder / "step-vit-cuda.json").unlink()
    assert report.main(str(folder), str(tmp_path), "0") == 1
    assert "step-vit: no figures" in capsys.readouterr().out


def test_a_step_that_did_not_run_is_missed(tmp_path, capsys):
    folder = logs(tmp_path)
    (folder / "initcheck.status").unlink()
    assert report.main(str(folder), str(tmp_path), "0") == 1
    assert "initcheck did not run" in capsys.readouterr().out


# Notes when each program begins and ends. FAILS: what the one that fails is called with.
PROGRAM = """#!/bin/sh
echo "+ $*" >>"$CALLS"
case "$*" in *--tool*|*--verify*) sleep 0.5 ;; *"-m benchmarks"*) sleep 0.05 ;; esac
echo "- $*" >>"$CALLS"
case "$*" in *"$FAILS"*) exit 3 ;; esac
"""


def checked(folder: Path, *arguments: str, fails: str = "nothing"):
    """Run gpu_check.sh over programs that do nothing; return its status, its steps, its calls."""
    for name in ("python", "compute-sanitizer"):
        (folder / name).write_text(PROGRAM)
        (folder / name).chmod(0o755)
    environ = os.environ | {
        "PATH": f"{folder}:{os.environ['PATH']}",
        "PYTHON": str(folder / "python"),
        "CALLS": str(folder / "calls"),
        "FAILS": fails,
    }
    command = [ROOT / "scripts" / "gpu_check.sh", *arguments, folder]
    done = subprocess.run(command, env=environ, check=False, capture_output=True)
    steps = [file.stem for file in folder.glob("logs-*/*.status")]
    return done.returncode, steps, (folder / "calls").read_text().splitlines()


def test_the_gpu_report_expects_every_step(tmp_path):
    """DeepFool's needs packages that need not be there."""
    status, steps, calls = checked(tmp_path)
    assert status == 0
    assert sorted(steps) == sorted([*report.EXPECTED, "deepfool"])
    assert "gpu_report.py" in calls[-1]
    timed = [i for i, call in enumerate(calls) if re.match(r"\+ -m benchmarks(?!.*--verify)", call)]
    assert len(timed) == len(report.FIGURES) + 1
    for i in timed:  # beside nothing
        assert calls[i + 1] == calls[i].replace("+", "-", 1)


def test_the_gpu_report_expects_every_step_of_a_dry_run(tmp_path):
    status, steps, _ = checked(tmp_path, "--dry-run")
    assert status == 0
    assert sorted(steps) == sorted(report.ON_THE_CPU)


@pytest.mark.parametrize(
    ("fails", "ran"), [("setup.py", ["build"]), ("import lives", ["build", "lives"])]
)
def test_without_kernels_nothing_is_timed(tmp_path, fails, ran):
    status, steps, calls = checked(tmp_path, fails=fails)
    assert status == 1
    assert sorted(steps) == ran
    assert "gpu_report.py" in calls[-1]
    assert not any("benchmarks." in call for call in calls)
