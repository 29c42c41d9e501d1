"""scripts/docs.py: pages with what their code prints, and a site that needs no network."""

from pathlib import Path

import pytest

from tests.scripts.loading import script


@pytest.fixture
def docs(tmp_path, monkeypatch):
    module = script("docs")
    monkeypatch.setattr(module, "SITE", tmp_path)
    return module


def block(code):
    return f"```python\n{code}\n```"


def test_what_a_block_prints_stands_below_it_and_names_live_on(docs):
    page = f"{block('a = 3')}\n\nthen\n\n{block('print(a + 1)')}\n"
    shown = docs.run(page, "page.md")
    assert shown.startswith(page.rstrip())
    assert shown.split("```text")[1].splitlines()[1] == "4"


def test_the_seed_is_fixed(docs):
    page = block("import torch\nprint(torch.rand(3))")
    assert docs.run(page, "page.md") == docs.run(page, "page.md")


def test_an_exception_ends_the_build_and_tells_the_line(docs):
    with pytest.raises(ZeroDivisionError) as caught:
        docs.run(f"one\ntwo\n{block('1 / 0')}\n", "page.md")
    last = caught.traceback[-1]
    assert (last.path.name if isinstance(last.path, Path) else last.path) == "page.md"
    assert last.lineno + 1 == 4


def test_an_old_name_is_an_error(docs):
    code = "import warnings\nwarnings.warn('old', DeprecationWarning)"
    with pytest.raises(DeprecationWarning, match="old"):
        docs.run(block(code), "page.md")


def test_a_package_that_is_absent_is_said_in_words(docs, monkeypatch):
    monkeypatch.setitem(docs.OPTIONAL, "no_such_package", {"no_such_package": "its-name"})
    shown = docs.run(block("import no_such_package"), "page.md")
    assert "Not run here, for want of: its-name." in shown


def test_a_package_that_is_needed_is_an_error(docs):
    with pytest.raises(ModuleNotFoundError):
        docs.run(block("import no_such_package"), "page.md")


def test_bars_in_code_of_tables(docs):
    row = "| `a \\| b` | c \\| d |"
    assert docs.unescape(f"{row}\n`e \\| f`") == "| `a | b` | c \\| d |\n`e \\| f`"


@pytest.mark.parametrize(
    "loads",
    [
        '<script src="https://cdn.example/x.js"></script>',
        "<img alt='' src=//example/x.png>",
        '<link href="https://fonts.example/css" rel="stylesheet">',
        "<style>@import url('https://fonts.example')</style>",
    ],
)
def test_what_comes_from_the_network_is_found(docs, tmp_path, loads):
    (tmp_path / "index.html").write_text('<a href="https://example.org">link</a>')
    docs.check()
    (tmp_path / "page.html").write_text(loads)
    with pytest.raises(SystemExit, match=r"page\.html"):
        docs.check()
