"""What benchmarks/README.md and the guide say of minimal_norm is what was measured."""

import json
import re

import pytest

from tests.scripts.loading import ROOT


def cases(name: str) -> dict:
    return json.loads((ROOT / f"benchmarks/results/{name}.json").read_text())["cases"]


CASES = cases("minimal_norm")
PLAIN, HARDENED = list(CASES.values())[:3], CASES["CNN, PGD-trained"]


def each(case: dict, figure: str, *names: str) -> list[float]:
    return [case["attacks"][name][figure] for name in names]


@pytest.mark.parametrize(
    ("head", "name"),
    [("optimality (95%)", "minimal_norm"), ("in the 1-norm (95%)", "minimal_norm-1")],
)
def test_the_table_is_that_of_the_results(head, name):
    page, found = (ROOT / "benchmarks/README.md").read_text(), cases(name)
    body = page.split(f"| {head} |")[1].split("\n\n")[0]
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in body.splitlines()[2:]]
    assert [row[0] for row in rows] == list(found["CNN"]["attacks"])
    for name, passes, *cells in rows:
        counts = sorted(case["attacks"][name]["passes"] for case in found.values())
        ends = dict.fromkeys(f"{count:,.0f}" for count in (counts[0], counts[-1]))
        assert passes == " to ".join(ends)
        for cell, case in zip(cells, found.values(), strict=True):
            one = case["attacks"][name]
            low, high = one["interval of 95%"]
            want = f"{one['optimality']:.3f} ({low:.3f} to {high:.3f})"
            want += f", {one['failed']} failed" if one["failed"] else ""
            assert cell.replace("*", "") == want


def test_the_words_of_the_guide():
    page = re.sub(r"\]\([^)]*\)", "]", (ROOT / "docs/guides/evaluate.md").read_text())
    assert "by 1 to 3% in the median, on one that was trained with PGD by 12%" in page
    medians = [each(case, "length / best, median", "DeepFool")[0] for case in PLAIN]
    assert (round(100 * min(medians)), round(100 * max(medians))) == (101, 103)
    assert round(100 * each(HARDENED, "length / best, median", "DeepFool")[0]) == 112
    assert "one in twenty there by half" in page
    assert each(HARDENED, "length / best, 95%", "DeepFool")[0] >= 1.5
    assert "25 passes found changes that are shorter in the mean, for about a quarter" in page
    assert "some ten times the passes inside a box" in page
    for case in CASES.values():
        plain, few = each(case, "best / length, mean", "DeepFool", "minimal_norm, 25")
        assert few > plain
        plain, few, more = each(case, "passes", "DeepFool", "minimal_norm, 25", "SuperDeepFool")
        assert few < 0.26 * plain
        assert 9 < more / plain < 12
    assert "200 gain a hundredth, on the others less than a thousandth" in page
    gains = []
    for case in CASES.values():
        before, after = each(case, "best / length, mean", "minimal_norm, 100", "minimal_norm, 200")
        gains.append(after - before)
    assert max(gains[:3]) < 1e-3
    assert round(100 * gains[3]) == 1
