"""The examples, as they stand, in a process of their own."""

import os
import re
import runpy
from pathlib import Path

import pytest

from tests.forked import ROOT, completed

NEEDS = {"plain_loop": [], "lightning_loop": ["lightning"], "accelerate_loop": ["accelerate"]}


def _example(name: str, folder: Path) -> None:
    os.chdir(folder)
    runpy.run_path(str(ROOT / "examples" / f"{name}.py"), run_name="__main__")


def run(name: str, packages: tuple[str, ...], folder: Path) -> str:
    """Run an example; return what it printed."""
    for package in packages:
        pytest.importorskip(package, reason=f"the example needs {package}")
    done = completed(_example, name, folder, HF_HUB_OFFLINE="1")
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("name", NEEDS)
def test_an_example_makes_the_network_more_robust(name, tmp_path):
    printed = run(name, ("mlxtend", *NEEDS[name]), tmp_path)
    lines = re.findall(r"lam ([0-9.]+): accuracy ([0-9.]+)%, rho_adv ([0-9.]+)", printed)
    (_, accuracy, rho), (_, hardened_accuracy, hardened_rho) = lines
    assert float(hardened_rho) > 1.4 * float(rho)
    assert float(hardened_accuracy) > float(accuracy) - 1


@pytest.mark.slow
def test_a_model_of_tokens_becomes_more_robust_in_its_embeddings(tmp_path):
    printed = run("tokens", ("transformers",), tmp_path)
    (clean, attacked), (hardened_clean, hardened) = (
        map(float, line)
        for line in re.findall(r"accuracy ([0-9.]+)%, under PGD ([0-9.]+)%", printed)
    )
    assert min(clean, hardened_clean) > 95
    assert hardened > attacked + 10


def test_the_first_page_shows_the_plain_one():
    example = (ROOT / "examples" / "plain_loop.py").read_text()
    code = example.split('"""', 2)[2].strip()
    assert f"```python\n{code}\n```" in (ROOT / "docs" / "start.md").read_text()
