"""What a report says: as text, table, page, picture and file."""

import html
import json
import math
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

import jacfast
from jacfast.robustness import result, shown
from tests.robustness.reports import BUDGETS, by_hand, linear, shares


def test_text_markdown_and_json_say_the_same(tmp_path: Path):
    model, x, y, _ = linear(2)
    found = jacfast.robustness_report(model, x, y, eps=(0.02, 0.5), **BUDGETS)
    figures = found.to_dict()
    share = f"{100 * figures['attacks']['worst case']['robust accuracy']['0.02']:.2f}"
    (row,) = (line for line in str(found).splitlines() if line.startswith("robust at eps 0.02"))
    assert row.endswith(share)
    assert f"| {share} |" in found.markdown() == found._repr_markdown_()
    assert max(map(len, str(found).splitlines())) <= 100
    assert repr(found) == "RobustnessReport(40 samples, accuracy 75.00%, findings: none)"
    tmp_path /= "made/with it"
    names = found.save(tmp_path)
    assert sorted(names) == sorted(path.name for path in tmp_path.iterdir())
    assert json.loads((tmp_path / "figures.json").read_text()) == figures
    page = (tmp_path / "report.html").read_text()
    assert f"<td>{share}</td>" in page
    assert all(sign.means.split(":")[0] in page for sign in found.signs)
    assert (tmp_path / "robustness.png").read_bytes().startswith(b"\x89PNG")


def test_the_picture_has_the_curves_and_the_points():
    model, x, y, _far = linear(2)
    found = jacfast.robustness_report(model, x, y, eps=(0.02, 0.05), **BUDGETS)
    (axis,) = found.figure().axes
    lines = {line.get_label(): line for line in axis.lines}
    assert set(lines) == {"DeepFool", "minimal norm", "worst case", "PGD"}
    assert lines["PGD"].get_xdata().tolist() == [0.02, 0.05]
    sizes, values = lines["worst case"].get_data()
    middle = len(sizes) // 3
    want = 100 * shares(found.distances["worst case"], sizes[middle])
    assert values[middle] == pytest.approx(want)
    assert values[0] == 75


def test_where_nothing_is_found_all_is_unknown_and_still_shown(tmp_path):
    model, x, y, _ = linear(2)
    steps = lambda a: model(a).sign() + model(a).detach() / 1e6  # noqa: E731
    far = jacfast.robustness_report(steps, x, y, eps=(1e-9,), **BUDGETS)
    assert [sign.name for sign in far.findings] == ["zero gradients"]
    worst = far.to_dict()["attacks"]["worst case"]
    assert worst["median distance"] is None
    assert worst["not found"] == int(far.right.sum())
    assert "unknown" in str(far)
    far.save(tmp_path)
    again = pickle.loads(pickle.dumps(far))
    assert str(again) == str(far)


def test_numbers_of_numpy_are_written_as_those_of_python(tmp_path: Path):
    model, x, y, _ = linear(2)
    given = {"p": 2, "eps": (0.25, 0.5), "budget": 10, "steps": 3, "restarts": 2, "batch_size": 13}
    want = jacfast.robustness_report(model, x, y, **given).to_dict()
    numpy = {
        name: np.asarray(value)[()] if name != "eps" else tuple(map(np.float32, value))
        for name, value in given.items()
    }
    found = jacfast.robustness_report(model, x, y, clip=(np.float64(0), np.float32(1)), **numpy)
    found.save(tmp_path)
    assert json.loads((tmp_path / "figures.json").read_text()) == want
    assert json.dumps(found.to_dict()) == json.dumps(want)


def test_the_median_distance_is_the_lower_of_two_as_that_of_torch():
    """With half of them found it is known, at the one that is farthest."""
    far = torch.tensor([3.0, math.inf, 1.0, math.inf])
    assert shown._median(far) == float(far.median()) == 3.0


def test_every_figure_of_the_table_can_be_counted():
    found = by_hand()
    rows = {line[:17].strip(): line[17:].split() for line in str(found).splitlines() if line}
    assert rows["median distance"] == ["3", "2", "1.5"]  # PGD knows its sizes alone
    assert rows["mean distance"] == ["2", "2.333", "2.167"]  # of those found
    assert rows["nothing found"] == ["1", "0", "1", "0"]
    assert rows["robust at eps 0.5"] == [",", "%", *["75.00"] * 4]
    assert rows["robust at eps 2,"] == ["%", "50.00", "25.00", "25.00", "25.00"]
    assert "without a box; minimal norm: 9 passes, PGD: one start of 7 steps" in words(found)
    boxed = by_hand(math.inf, (0.0, 1.0), restarts=5)
    assert "inf-norm, in the box (0.0, 1.0)" in words(boxed)
    assert "PGD: 5 starts of 7 steps" in words(boxed)
    assert (found.to_dict()["p"], boxed.to_dict()["p"]) == (2, "inf")
    attacks = found.to_dict()["attacks"]
    assert attacks["PGD"]["median distance"] is attacks["PGD"]["mean distance"] is None


def words(found) -> str:
    return " ".join(str(found).split())


def test_the_page_and_markdown_have_every_sign():
    found = by_hand()
    page = html.unescape(found.page().decode())
    for row in (
        ("zero gradients", "33.3", "0.0", "FOUND"),
        ("saturated cross-entropy", "0.0", "0.0", ""),
        ("logits x 100", "66.7", "5.0", "FOUND"),  # of the size at which there are most
        ("PGD below the minimal norm", "33.3", "5.0", "FOUND"),
        ("random starts", "0.0", "5.0", ""),
    ):
        assert "".join(f"<td>{cell}</td>" for cell in row) in page
    assert "<h2>Signs of masked gradients: 3 of 6 found</h2>" in page
    assert json.dumps({"eps": [0.5, 2.0]}, indent=2)[1:-2] in page
    listed = [line for line in found.markdown().splitlines() if line.startswith("- ")]
    assert listed == [f"- {sign}" for sign in found.signs]
    assert listed[4].startswith("- random starts: not found, 0.0% of those that are right.")


def test_files_from_elsewhere_stay_and_a_save_that_was_cut_off_is_made_again(tmp_path, monkeypatch):
    found = by_hand()
    monkeypatch.setattr("jacfast.plots.png", lambda figure: b"drawn")
    monkeypatch.setattr(jacfast.RobustnessReport, "figure", lambda self: None)
    monkeypatch.setattr(jacfast.RobustnessReport, "page", lambda self: b"page")
    for name in ("report.html", "figures.json"):
        (tmp_path / name).write_text("another's")
        with pytest.raises(ValueError, match=rf"{name} in .* would be overwritten"):
            found.save(tmp_path)
        assert [path.name for path in tmp_path.iterdir()] == [name]
        (tmp_path / name).unlink()
    for number in (1, 2):
        folder = tmp_path / str(number)
        folder.mkdir()
        with monkeypatch.context() as patch:
            written = iter([result.write_atomically] * number)
            patch.setattr(result, "write_atomically", lambda *given, to=written: next(to)(*given))
            with pytest.raises(StopIteration):
                found.save(folder)
        for _ in range(2):
            assert set(found.save(folder)) == {path.name for path in folder.iterdir()}
        assert json.loads((folder / "figures.json").read_text()) == found.to_dict()
