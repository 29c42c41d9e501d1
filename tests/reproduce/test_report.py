"""The pictures of a reproduced table: every figure at its method, every curve under its attack."""

import pytest

from jacfast.reproduce import report

ROWS = {  # by name: the paper's figures, ours and their deviations in two columns
    "a": ([1.0, None], [1.5, 40.0], [0.25, 2.0]),
    "b": ([None, None], [2.5, 50.0], [0.5, 4.0]),
    "c": ([3.0, None], [3.5, 60.0], [0.75, 6.0]),
}


@pytest.fixture
def result(monkeypatch):
    monkeypatch.setattr(report, "png", lambda figure: figure)
    rows = [
        dict(zip(("name", "paper", "ours", "sd"), (name, *of), strict=True))
        for name, of in ROWS.items()
    ]
    return {"table": {"columns": ["rho_adv", "accuracy"], "curves": []}, "rows": rows}


def test_figures_stand_at_their_methods(result):
    axes = report.figure(result).axes
    for i, axis in enumerate(axes):
        drawn = {of.get_label(): of for of in (*axis.lines, *axis.containers)}
        paper = [(of[0][i], place) for place, of in enumerate(ROWS.values()) if of[0][i]]
        assert [tuple(point) for point in drawn["paper"].get_xydata()] == paper
        ours, _, (bars,) = drawn["ours"].lines
        assert ours.get_xydata().tolist() == [[of[1][i], n] for n, of in enumerate(ROWS.values())]
        ends = [segment[:, 0].tolist() for segment in bars.get_segments()]
        assert ends == [[of[1][i] - of[2][i], of[1][i] + of[2][i]] for of in ROWS.values()]
        assert axis.get_ylim() == (2.5, -0.5)  # the first method on top
    assert [text.get_text() for text in axes[0].get_yticklabels()] == [*ROWS]


def test_curves_are_those_of_their_attacks(result, monkeypatch):
    seen = []
    monkeypatch.setattr(report, "accuracy_figure", lambda *given, attack: seen.append(given))
    curves = [("fgsm", [0.0, 0.1]), ("jsma", [0.0, 0.5])]
    result["table"]["curves"] = [dict(zip(("attack", "epsilons"), c, strict=True)) for c in curves]
    for n, row in enumerate(result["rows"]):
        row["curves"] = [[1.0, n / 10], [1.0, n / 5]]
    assert [*report.curves(result)] == ["fgsm.png", "jsma.png"]
    for (_, epsilons), share, (sizes, rows) in zip(curves, (0.1, 0.2), seen, strict=True):
        assert sizes == epsilons
        assert rows == {name: [1.0, pytest.approx(n * share)] for n, name in enumerate(ROWS)}
