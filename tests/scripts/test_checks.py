"""The scripts that judge the CUDA build must say no where they should."""

import importlib.util
import json
import re
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parents[2] / "scripts"


def script(name: str):
    spec = importlib.util.spec_from_file_location(name, SCRIPTS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


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
    sources = "".join(file.read_text() for file in SCRIPTS.parent.glob("csrc/kernels/*.cuh"))
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


def logs(folder: Path, **status: int) -> Path:
    for name, code in status.items():
        (folder / f"{name}.status").write_text(f"{code} 1\n")
        closing = "12 passed in 3.1s" if name == "tests" else "========= ERROR SUMMARY: 0 errors"
        (folder / f"{name}.log").write_text(f"{closing}\n")
    (folder / "ops-cuda.json").write_text("{}")
    return folder


def test_the_gpu_report_passes_only_if_everything_did(tmp_path, capsys):
    fine = dict.fromkeys(report.EXPECTED, 0)
    good = logs(tmp_path, **fine)
    assert report.main(str(good), str(tmp_path), "0") == 0
    (written,) = tmp_path.glob("*-20*.json")
    assert json.loads(written.read_text())["failures"] == []
    (good / "memcheck.status").write_text("9 1\n")
    assert report.main(str(good), str(tmp_path), "0") == 1
    assert "memcheck: status 9" in capsys.readouterr().out
    (good / "memcheck.status").unlink()
    assert report.main(str(good), str(tmp_path), "0") == 1
    assert "memcheck did not run" in capsys.readouterr().out
    logs(tmp_path, memcheck=0)
    (good / "tests.log").write_text("3 skipped in 0.1s\n")
    assert report.main(str(good), str(tmp_path), "0") == 1
    assert "tests: none passed" in capsys.readouterr().out


def test_a_tool_that_cannot_attach_is_named(tmp_path, capsys):
    good = logs(tmp_path, **{**dict.fromkeys(report.EXPECTED, 0), "racecheck": 1})
    (good / "racecheck.log").write_text("========= Error: Device not supported\n")
    assert report.main(str(good), str(tmp_path), "0") == 1
    assert "racecheck: Device not supported" in capsys.readouterr().out
