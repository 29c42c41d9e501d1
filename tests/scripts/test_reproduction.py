"""Runs of `jacfast reproduce` in the documents."""

import json
import re

import pytest

from jacfast.reproduce import load, names
from tests.scripts.loading import ROOT
from tests.scripts.loading import script as loaded


@pytest.fixture
def script(tmp_path, monkeypatch):
    module = loaded("reproduction")
    monkeypatch.setattr(module, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(module, "PAGE", tmp_path / "page.md")
    monkeypatch.setattr(module, "JOINED", {})
    return module


def write(run, found, quick=False):
    run.mkdir(exist_ok=True)
    about = {"key": "mine", "source": "s", "title": "t", "remark": "Smaller.", "seeds": [0]}
    about |= {"columns": ["rho_adv"], "rank": "rho_adv"}
    rows = [
        {"name": name, "paper": [paper], "ours": [ours], "sd": [0.0]}
        for name, paper, ours in (("a", 1.0, found), ("b", 2.0, 3.0))
    ]
    result = {"table": about, "rows": rows, "data": "MNIST", "quick": quick}
    (run / "result.json").write_text(json.dumps(result))
    for name in ("table.png", "fgsm.png"):
        (run / name).write_bytes(name.encode())


def test_a_table_takes_the_place_of_the_one_before(script, tmp_path):
    script.PAGE.write_text("first\n\n<!-- mine -->\n<!-- end -->\n\nlast\n")
    for found in (2.0, 4.0):
        write(tmp_path / "run", found)
        script.main([str(tmp_path / "run")])
        page = script.PAGE.read_text()
        assert page.startswith("first\n\n<!-- mine -->\n**s: t** (`jacfast reproduce mine`, MNIST)")
        assert page.endswith("<!-- end -->\n\nlast\n")
        assert f"| a | 1 | {found:.2f} | {found - 1:+.2f} |\n| b | 2 | 3.00 | +1.00 |" in page
    assert "| a | 1 | 2.00" not in page
    assert "1 of 1 pairs are the other way round: a before b. Smaller." in page
    for name in ("table.png", "fgsm.png"):
        assert (script.RESULTS / f"mine-{name}").read_bytes() == name.encode()
        assert page.count(f"(../benchmarks/results/reproduction/mine-{name})") == 1
    assert json.loads((script.RESULTS / "mine.json").read_text())["data"] == "MNIST"


def test_pictures_are_drawn_anew_from_the_figures_alone(script, tmp_path):
    script.PAGE.write_text("first\n")
    write(tmp_path / "run", 2.0)
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    result["table"]["curves"] = [{"attack": "fgsm", "epsilons": [0.0, 0.1]}]
    for row in result["rows"]:
        row["curves"] = [[1.0, 0.5]]
    (tmp_path / "run" / "result.json").write_text(json.dumps(result))
    (tmp_path / "run" / "cells.png").write_bytes(b"of a network")
    script.main([str(tmp_path / "run")])
    script.JOINED["both"] = {"mine": {"a": "a"}}
    script.redraw()
    assert (script.RESULTS / "both-fgsm.png").read_bytes().startswith(b"\x89PNG")
    for name in ("table.png", "fgsm.png"):
        assert (script.RESULTS / f"mine-{name}").read_bytes().startswith(b"\x89PNG")
    assert (script.RESULTS / "mine-cells.png").read_bytes() == b"of a network"


def test_rows_of_several_tables_in_one_picture(script, tmp_path):
    """Under the names they have there, from files of the same curves and no others."""
    script.RESULTS.mkdir()
    curves = [{"attack": "fgsm", "epsilons": [0.0, 0.1]}]
    for key, last in (("one", 0.5), ("two", 0.25)):
        rows = [{"name": name, "curves": [[1.0, last]]} for name in ("a", "b")]
        result = {"table": {"curves": curves}, "rows": rows}
        (script.RESULTS / f"{key}.json").write_text(json.dumps(result))
    found = script.joined({"one": {"b": "b"}, "two": {"a": "a, of two"}})
    assert found["table"]["curves"] == curves
    drawn = {row["name"]: row["curves"] for row in found["rows"]}
    assert drawn == {"b": [[1.0, 0.5]], "a, of two": [[1.0, 0.25]]}
    other = {"table": {"curves": []}, "rows": []}
    (script.RESULTS / "three.json").write_text(json.dumps(other))
    with pytest.raises(SystemExit, match="three has other curves"):
        script.joined({"one": {}, "three": {}})


def test_a_new_table_comes_last(script, tmp_path):
    script.PAGE.write_text("first\n")
    write(tmp_path / "run", 2.0)
    script.main([str(tmp_path / "run")])
    assert script.PAGE.read_text().startswith("first\n\n<!-- mine -->\n**s: t**")


def test_bars_in_headings_do_not_end_cells(script, tmp_path):
    script.PAGE.write_text("first\n")
    write(tmp_path / "run", 2.0)
    file = tmp_path / "run" / "result.json"
    file.write_text(file.read_text().replace('"rho_adv"', '"norm_clean"'))
    script.main([str(tmp_path / "run")])
    head = next(row for row in script.PAGE.read_text().splitlines() if "J" in row)
    assert head.replace("\\|", "").count("|") == 5  # four cells


def test_a_quick_run_is_not_taken(script, tmp_path):
    script.PAGE.write_text("first\n")
    write(tmp_path / "run", 2.0, quick=True)
    with pytest.raises(SystemExit, match="run is a quick run"):
        script.main([str(tmp_path / "run")])
    assert script.PAGE.read_text() == "first\n"


def test_the_page_names_the_tables_that_have_not_been_run():
    page = (ROOT / "docs" / "reproduction.md").read_text()
    (line,) = re.findall(r"^Not run in full yet: (.*)\.$", page, re.MULTILINE)
    missing = [name for name in names() if f"<!-- {name} -->" not in page]
    assert line.split(", ") == [f"`{name}`" for name in missing]


def test_the_page_of_the_repository_shows_what_was_measured():
    """Every committed result is on the page, with its figures."""
    page = (ROOT / "docs" / "reproduction.md").read_text()
    files = list((ROOT / "benchmarks" / "results" / "reproduction").glob("*.json"))
    assert files
    for file in files:
        result = json.loads(file.read_text())
        assert f"<!-- {file.stem} -->" in page
        assert loaded("reproduction").block(result, []) in page
        assert result["table"]["remark"] == load(file.stem).remark
        for row in result["rows"]:
            assert f"| {row['name']} |" in page
            assert f" {row['ours'][0]:.2f} " in page or f" {row['ours'][0]:.4f} " in page
