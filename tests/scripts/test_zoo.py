"""The sweep of other people's architectures: what is right passes, what is wrong is named."""

import json

import pytest

import jacfast
from benchmarks.zoo import checks, report
from benchmarks.zoo.architectures import FEW, architectures

VERSIONS = dict.fromkeys(("torchvision", "timm", "transformers"), "0")


@pytest.fixture
def bert():
    return next(a for a in architectures() if a.name == "transformers/bert")


def test_there_are_many_and_the_few_are_among_them():
    names = [architecture.name for architecture in architectures()]
    assert len(set(names)) == len(names) >= 150
    assert set(FEW) <= set(names)
    assert len(set(FEW)) == 20


def test_a_network_that_is_right_passes(bert):
    entry = checks.swept(bert)
    assert entry["failures"] == {}
    assert max(entry["differences"]) < 1e-6
    assert len(entry["errors"]) == 13
    page = report.page(report.figures([entry], VERSIONS))
    assert "1 of 1 architectures pass" in page
    assert "Nothing." in page


def test_what_is_wrong_is_found_and_named(bert, monkeypatch):
    right = jacfast.frobenius_penalty
    monkeypatch.setattr(jacfast, "frobenius_penalty", lambda *a: right(*a) * (1 + 1e-6))
    entry = checks.swept(bert)
    assert set(entry["failures"]) == {f"one line, float64, N = {n}" for n in (1, 2)}
    found = report.figures([entry], VERSIONS)
    assert json.loads(report.compact(found))["architectures"][bert.name]["failures"]
    assert "| transformers/bert | one line, float64, N = 2; one line" in report.page(found)
