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
    assert "for one image of 465 of that network, and none of the others" in page
    failed = {
        name: each(case, "failed", "minimal_norm, 25", "minimal_norm, 50")
        for name, case in IN_1_NORM.items()
    }
    assert failed.pop("CNN, PGD-trained") == [1, 1]
    assert IN_1_NORM["CNN, PGD-trained"]["images"] == 465
    assert all(count == [0, 0] for count in failed.values())


def test_what_it_takes_of_the_time_of_ddn():
    page = (ROOT / "benchmarks/README.md").read_text()
    assert "for a tenth to a seventeenth of DDN's processor time" in page
    pairs = [
        each(case, "processor seconds", "DDN of adv-lib, 1000 steps", "minimal_norm, 100")
        for case in DIGITS.values()
    ]
    times = [ddn / ours for ddn, ours in pairs]
    assert (int(min(times)), round(max(times))) == (10, 17)


def test_what_the_benchmarks_page_says_of_attackbench():
    page = (ROOT / "benchmarks/README.md").read_text()
    assert "In each of the four cases 100 passes are above each of adv-lib's attacks" in page
    cases = json.loads((ROOT / "benchmarks/results/attackbench.json").read_text())["cases"]
    assert len(cases) == 4
    for case in cases.values():
        ours, passes = case["minimal_norm, 100"]["optimality"], {}
        for name in (name for name in case if "adv-lib" in name):
            assert ours > case[name]["optimality"]
            passes[name] = case[name]["forwards"] + case[name]["backwards"]
        assert set(passes.values()) == {1000, 2000}
        spent = case["minimal_norm, 100"]
        assert spent["forwards"] + spent["backwards"] <= 100
