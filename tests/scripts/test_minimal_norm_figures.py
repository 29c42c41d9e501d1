"""What the guide says of minimal_norm is what was measured."""

import json
import re

from tests.scripts.loading import ROOT

DIGITS, CIFAR, IN_1_NORM = (
    json.loads((ROOT / f"benchmarks/results/{name}.json").read_text())["cases"]
    for name in ("minimal_norm", "minimal_norm-networks", "minimal_norm-1")
)
PLAIN, HARDENED = list(DIGITS.values())[:3], DIGITS["CNN, PGD-trained"]


def each(case: dict, figure: str, *names: str) -> list[float]:
    return [case["attacks"][name][figure] for name in names]


def the_guide() -> str:
    return re.sub(r"\]\([^)]*\)", "]", (ROOT / "docs/guides/evaluate.md").read_text())


def test_what_the_guide_says_of_deepfool():
    page = the_guide()
    assert "by 1 to 3% in the median, on one that was trained with PGD by 13%" in page
    medians = [each(case, "length / best, median", "DeepFool")[0] for case in PLAIN]
    assert (round(100 * min(medians)), round(100 * max(medians))) == (101, 103)
    assert round(100 * each(HARDENED, "length / best, median", "DeepFool")[0]) == 113
    assert "one in twenty there by almost half" in page
    assert 1.45 < each(HARDENED, "length / best, 95%", "DeepFool")[0] < 1.5
    assert "for CIFAR-10 by 17 to 34%" in page
    medians = [each(case, "length / best, median", "DeepFool")[0] for case in CIFAR.values()]
    assert (round(100 * min(medians)), round(100 * max(medians))) == (117, 134)


def test_what_the_guide_says_of_few_passes():
    page = the_guide()
    assert "25 passes found changes that are shorter in the mean, for about a quarter" in page
    assert "some ten times the passes inside a box" in page
    for case in DIGITS.values():
        plain, few = each(case, "best / length, mean", "DeepFool", "minimal_norm, 25")
        assert few > plain
        plain, few, more = each(case, "passes", "DeepFool", "minimal_norm, 25", "SuperDeepFool")
        assert few < 0.26 * plain
        assert 9 < more / plain < 12
    assert "where it takes some thirty, so did 25 passes" in page
    assert "for four of a hundred images of one network, and 50 nothing for two" in page
    failed = []
    for case in CIFAR.values():
        plain, few = each(case, "best / length, mean", "DeepFool", "minimal_norm, 25")
        assert few > plain
        assert 25 < each(case, "passes", "DeepFool")[0] < 40
        failed.append(each(case, "failed", "minimal_norm, 25", "minimal_norm, 50"))
    assert sorted(failed) == [[0, 0], [0, 0], [0, 0], [4, 2]]


def test_what_the_guide_says_of_many_passes():
    page = the_guide()
    assert "200 gain a hundredth, on the other networks of digits two thousandths at most" in page
    gains = []
    for case in (*DIGITS.values(), *CIFAR.values()):
        before, after = each(case, "best / length, mean", "minimal_norm, 100", "minimal_norm, 200")
        gains.append(after - before)
    assert round(1e3 * max(gains[:3])) == 2
    assert round(100 * gains[3]) == 1
    assert "on those for CIFAR-10 three to seven thousandths" in page
    assert (round(1e3 * min(gains[4:])), round(1e3 * max(gains[4:]))) == (3, 7)


def test_what_the_guide_says_of_the_1_norm():
    page = the_guide()
    assert "25 passes found a change there for each of 1,869 images of the four networks" in page
    assert sum(case["images"] for case in IN_1_NORM.values()) == 1869
    assert all(each(case, "failed", "minimal_norm, 25") == [0] for case in IN_1_NORM.values())
    assert "on that trained with PGD 200 gain two and a half hundredths" in page
    before, after = each(
        IN_1_NORM["CNN, PGD-trained"],
        "best / length, mean",
        "minimal_norm, 100",
        "minimal_norm, 200",
    )
    assert round(1e3 * (after - before)) in (25, 26)
