"""What type checkers say of a user's script: right uses pass, each wrong one is an error."""

import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow
HERE = Path(__file__).with_name("typing")
ROOT = HERE.parents[1]
WRONG = [
    (number, error[1])
    for number, line in enumerate((HERE / "wrong.py").read_text().splitlines(), start=1)
    if (error := re.search(r"# error: ([a-z-]+)", line))
]


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """Return a folder of a user's own, with the scripts: without this project's settings."""
    folder = tmp_path_factory.mktemp("user")
    for name in ("right.py", "wrong.py"):
        shutil.copy(HERE / name, folder)
    return folder


def test_mypy(project):
    pytest.importorskip("mypy", reason="mypy is a tool of development")
    cache = ROOT / "build" / "mypy"  # what it has read of torch
    options = ["--config-file=", "--follow-imports=silent", "--cache-dir", str(cache)]
    done = subprocess.run(
        [sys.executable, "-m", "mypy", *options, "right.py", "wrong.py"],
        cwd=project,
        env={**os.environ, "MYPYPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    found = re.findall(r"^(\w+)\.py:(\d+): error: .*\[([a-z-]+)\]$", done.stdout, re.M)
    assert [(name, int(line), kind) for name, line, kind in found] == [
        ("wrong", line, kind) for line, kind in WRONG
    ], done.stdout + done.stderr


def test_pyright(project):
    names = ("pyright", "basedpyright")
    here = Path(sys.executable).parent
    program = next((p for name in names if (p := shutil.which(name, path=here))), None)
    program = program or next((p for name in names if (p := shutil.which(name))), None)
    if program is None:
        pytest.skip("neither pyright nor basedpyright is installed")
    settings = {"extraPaths": [str(ROOT)], "typeCheckingMode": "standard"}
    (project / "pyrightconfig.json").write_text(json.dumps(settings))
    done = subprocess.run(
        [program, "--outputjson", "--pythonpath", sys.executable, "right.py", "wrong.py"],
        cwd=project,
        capture_output=True,
        text=True,
    )
    found = [
        (Path(each["file"]).stem, each["range"]["start"]["line"] + 1)
        for each in json.loads(done.stdout)["generalDiagnostics"]
        if each["severity"] == "error"
    ]
    assert found == [("wrong", line) for line, _ in WRONG], done.stdout


def test_an_editable_install_is_a_path(tmp_path):
    """Type checkers follow a .pth file with a folder, and not a finder in Python."""
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tmp_path)
    shutil.copytree(ROOT / "jacfast", tmp_path / "jacfast", ignore=shutil.ignore_patterns("*.so"))
    code = "from setuptools import build_meta; print(build_meta.build_editable('.'))"
    subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={**os.environ, "JACFAST_BUILD": "0"},
        capture_output=True,
        check=True,
    )
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as file:
        names = [name for name in file.namelist() if "dist-info" not in name]
        assert [Path(name).suffix for name in names] == [".pth"]
        assert file.read(names[0]).decode().strip() == str(tmp_path)
    assert (ROOT / "jacfast" / "py.typed").exists()
