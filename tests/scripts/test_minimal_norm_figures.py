"""What the guide says of minimal_norm is what was measured."""

import json
import re

from tests.scripts.loading import ROOT

CASES = json.loads((ROOT / "benchmarks/results/minimal_norm.json").read_text())["cases"]
PLAIN, HARDENED = list(CASES.values())[:3], CASES["CNN, PGD-trained"]


def each(case: dict, figure: str, *names: str) -> list[float]:
    return [case["attacks"][name][figure] for name in names]


def test_the_words_of_the_guide():
    page = re.sub(r"\]\([^)]*\)", "]", (ROOT / "docs/guides/evaluate.md").read_text())
    assert "by 1 to 3% in the median, on one that was trained with PGD by 11%" in page
    medians = [each(case, "length / best, median", "DeepFool")[0] for case in PLAIN]
    assert (round(100 * min(medians)), round(100 * max(medians))) == (101, 103)
    assert round(100 * each(HARDENED, "length / best, median", "DeepFool")[0]) == 111
    assert "one in twenty there by two fifths" in page
    assert each(HARDENED, "length / best, 95%", "DeepFool")[0] >= 1.4
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
