"""The tables of benchmarks/README.md are those of benchmarks/results."""

import pytest

from tests.scripts.loading import ROOT, script

PAGE = (ROOT / "benchmarks" / "README.md").read_text()


@pytest.fixture
def tables():
    return script("bench_tables")


def test_the_tables_are_those_of_the_results(tables):
    assert tables.with_tables(PAGE) == PAGE, "python scripts/bench_tables.py writes them"
    for name in tables.TABLES:
        assert PAGE.count(f"<!-- {name} -->\n") == 1


def test_a_table_of_other_results_is_another(tables, monkeypatch):
    found = tables.read("sizes-zoo-1-cpu")
    next(iter(found.values()))["jacfast"]["of_double_backward"] = 9.875
    monkeypatch.setattr(tables, "read", lambda _: found)
    assert "| 9.88 |" in tables.table("zoo") or "| 9.87 |" in tables.table("zoo")
