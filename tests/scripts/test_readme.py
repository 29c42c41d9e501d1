"""What the README says: figures are those of benchmarks/results, versions the package's."""

import json
import re
import tomllib

import pytest

from jacfast.version import __version__
from tests.scripts.loading import ROOT, script

README = (ROOT / "README.md").read_text()


@pytest.fixture
def figures():
    return script("figures")


def test_the_table_is_that_of_the_results(figures):
    assert figures.with_table(README) == README, "python scripts/figures.py writes it"


def test_the_cheaper_of_two_equals_is_bold(figures):
    steps = [{"plain_steps": value} for value in (2.0, 1.5)]
    assert figures.row("a", [*steps, None, None]) == (
        "| a | 2.00 | **1.50** | not measured | not measured |\n"
    )
    assert "**2.00**" not in figures.row("a", [steps[0], steps[0], *steps])


def test_how_many_small_networks_are_slower(figures):
    sizes = figures.read(figures.SIZES)
    del sizes["environment"]
    slower = sum(found["jacfast"]["of_double_backward"] > 1.03 for found in sizes.values())
    words = re.sub(r"\[|\]\([^)]*\)", "", README)
    assert f"Of the {len(sizes)} networks and sizes of a larger table {slower} are slower" in words


def test_the_networks_of_the_zoos(figures):
    zoo = figures.read(figures.ZOO)
    del zoo["environment"]
    shares = [found["jacfast"]["of_double_backward"] for found in zoo.values()]
    assert len(shares) == 10
    assert f"takes {min(shares):.2f} to {max(shares):.2f} of the time of double backward" in README


@pytest.mark.parametrize(
    ("case", "words"),
    [
        ("mnist-foolbox", "is {:.1f} times as fast as foolbox on 1,000 digits"),
        ("classes-foolbox", "{:.1f} times with 100 classes"),
        ("mnist-art", "against ART, 128 images at a time, it is {:.0f} times"),
        ("mnist-torchattacks", "against torchattacks, which loops over them, {:.0f} times, on 200"),
    ],
)
def test_deepfool(figures, case, words):
    same = figures.read(f"deepfool-{case}-cpu.json")["rows"]["same choices"]
    assert words.format(same["ratio"]) in README


def test_the_number_of_architectures():
    zoo = json.loads((ROOT / "benchmarks" / "results" / "zoo.json").read_text())
    assert f"on {len(zoo['architectures'])} architectures" in README


def test_the_versions_are_those_of_the_package():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    needed = dict(re.findall(r"\| (\w+) \| ([0-9.]+) or newer", README))
    assert f">={needed['Python']}" == project["requires-python"]
    assert f"torch>={needed['PyTorch']}" in project["dependencies"]
    pins = dict(re.findall(r"^([\w-]+)==([0-9.]+)$", (ROOT / "requirements.txt").read_text(), re.M))
    assert f"| {pins['torch']} on the CPU" in README


def test_the_packages_that_are_named_are_those_of_the_tests():
    pins = dict(re.findall(r"^([\w-]+)==([0-9.]+)$", (ROOT / "requirements.txt").read_text(), re.M))
    (names, versions) = re.search(r"\| optional packages \| (.*?) \| (.*?) \|", README).groups()
    names, versions = (re.split("[,;] ", words) for words in (names, versions))
    assert {name: pins[name] for name in names} == dict(zip(names, versions, strict=True))


def test_the_citation_is_of_this_version():
    assert f"\nversion: {__version__}\n" in (ROOT / "CITATION.cff").read_text()
