"""What benchmarks/README.md says of each weight's price is what was measured."""

import json
import re
import statistics

from tests.scripts.loading import ROOT


def test_the_table_is_that_of_the_results():
    name = "robustness-prices-mlp-cpu.json"
    found = json.loads((ROOT / "benchmarks" / "results" / name).read_text())["found"]
    page = (ROOT / "benchmarks" / "README.md").read_text()
    rows = re.findall(
        r"(?m)^\| (before|λ = [\d.]+)[^|]*\|([^|]*)\|([^|]*)\|([^|]*)\|([^|]*)\|", page
    )
    assert len(rows) == len(found)
    digits = (("accuracy", 100, 2), ("rho", 1, 3), ("median_distance", 1, 2), ("worst", 100, 1))
    for (_, *cells), lasts in zip(rows, found.values(), strict=True):
        for cell, (key, factor, places) in zip(cells, digits, strict=True):
            mean = factor * statistics.mean(last[key] for last in lasts)
            assert cell.strip() == f"{mean:.{places}f}"
