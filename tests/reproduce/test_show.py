"""A reproduced table in words: the order of the methods, headings, and where the figures stand."""

import re

import pytest

from jacfast.reproduce import show


def result_of(**ours):
    rows = [
        {"name": name, "paper": [paper], "ours": [found], "sd": [0.0]}
        for name, (paper, found) in ours.items()
    ]
    about = {"columns": ["rho_adv"], "rank": "rho_adv", "seeds": [0], "remark": ""}
    return {"table": about | {"source": "s", "title": "t"}, "rows": rows, "data": "d", "quick": 1}


def test_the_order_of_the_methods():
    assert show.order(result_of(a=(1, 5), b=(2, 6), c=(None, 0))).endswith("as in the paper")
    assert show.order(result_of(a=(1, 5), b=(1, 4), c=(2, 6))).endswith("as in the paper")
    said = show.order(result_of(a=(1, 5), b=(2, 4), c=(3, 6)))
    assert said.endswith("1 of 3 pairs are the other way round: a before b")
    assert show.order(result_of(a=(None, 5), b=(1, 4))).startswith("The paper has no order")
    seeds = result_of(a=(1, 5), b=(2, 4), c=(3, 9))
    seeds["rows"][1]["sd"] = [1.5]
    said = show.order(seeds)
    assert said.endswith("by rho_adv: as in the paper; within one standard deviation: a and b")


NAN = float("nan")


@pytest.mark.parametrize(
    ("figures", "words"),
    [
        ((5, 5, 5), "no pair is decided; equal: a and b; a and c; b and c"),
        ((5, 5, 6), "as in the paper; equal: a and b"),
        ((5, 5, 4), "2 of 3 pairs are the other way round: a before c; b before c; equal: a and b"),
        ((NAN, NAN, NAN), "no pair is decided; not comparable: a and b; a and c; b and c"),
        ((1, NAN, 3), "as in the paper; not comparable: a and b; b and c"),
        ((float("inf"), float("inf"), NAN), "equal: a and b; not comparable: a and c; b and c"),
    ],
)
def test_ties_and_nan_are_not_the_paper_s_order(figures, words):
    result = result_of(**dict(zip("abc", zip((1, 2, 3), figures, strict=True), strict=True)))
    assert show.order(result).removeprefix("Order of the methods by rho_adv: ").endswith(words)
    result["table"]["columns"] = ["fgsm 0.1", "rho_adv"]  # the same figures in another column
    for paper, row in enumerate(result["rows"]):
        for name, value in (("paper", paper), ("ours", paper), ("sd", 0.0)):
            row[name].append(value)
    swapped = len(re.findall("before", words))
    undecided = len(re.findall("and", words))
    assert show.order(result).endswith(
        f"as in the paper. In the other columns but accuracy: {swapped} of 3 pairs the other way "
        f"round, {undecided} undecided"
    )


@pytest.mark.parametrize(
    ("column", "words"),
    [
        ("fgsm 0.011765", "FGSM 0.0118, %"),
        ("bim 0.5 ref", "BIM 0.5 eps_ref, %"),
        ("margin own", "C&W of its eps, %"),
        ("auc 3", "AUC of class 3"),
    ],
)
def test_headings(column, words):
    assert show.heading(column) == words


def test_the_order_in_the_other_columns():
    result = result_of(a=(1, 5), b=(2, 6), c=(2, 7))
    result["table"]["columns"] += ["accuracy", "fgsm 0.1"]
    for row, (paper, ours) in zip(result["rows"], [(1, 3), (2, 2), (3, 1)], strict=True):
        row["paper"] += [ours, paper]  # accuracies in another order do not count
        row["ours"] += [paper, ours]
        row["sd"] += [0.0, 0.0]
    said = show.order(result)
    assert "by rho_adv: as in the paper. In the other columns but accuracy: 3 of 3 pairs" in said


def test_the_paper_s_figures_stand_where_it_has_any():
    a, b = show.text(result_of(a=(1, 5), b=(None, 4))).splitlines()[5:7]
    assert a.split() == ["a", "1", "5.00", "+4.00"]
    assert b.split() == ["b", "4.00"]
    assert b.index("4.00") == a.index("5.00")
    result = result_of(a=(None, 5), b=(None, 4))
    assert show.lines(result) == [["", "rho_adv x 100: ours"], ["a", "5.00"], ["b", "4.00"]]
    head, under, _, a, _ = show.text(result).splitlines()[2:7]
    assert (head, under, a) == ("   rho_adv x 100", "            ours", "a           5.00")
    for row, paper in zip(result["rows"], (1, 2), strict=True):  # beside a column with figures
        row["paper"].append(paper)
        row["ours"].append(7)
        row["sd"].append(0.0)
    result["table"]["columns"].append("accuracy")
    assert show.lines(result)[1] == ["a", "5.00", "1", "7.00", "+6.00"]
    assert show.text(result).splitlines()[5].split() == ["a", "5.00", "1", "7.00", "+6.00"]
