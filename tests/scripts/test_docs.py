"""The documents hold together: links and anchors lead somewhere, code is Python."""

import importlib
import inspect
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")),
    ROOT / "benchmarks" / "README.md",
    *sorted((ROOT / "docs").rglob("*.md")),
]
LINK = re.compile(r"\]\(([^)\s]+)\)")


def named(page):
    return str(page.relative_to(ROOT))


def prose(page):
    """The text without blocks of code."""
    return re.sub(r"(?ms)^```.*?^```$", "", page.read_text())


def anchors(page):
    """The anchors of a page's headings, as GitHub and the site make them."""
    for heading in re.findall(r"(?m)^#+ (.*)$", prose(page)):
        words = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading).lower()
        yield re.sub(r"[^\w\- ]", "", words).replace(" ", "-")


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_links_lead_somewhere(page):
    text = re.sub(r"`[^`]*`", "", prose(page))
    for link in LINK.findall(text):
        if re.match(r"https?:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        assert target.is_relative_to(ROOT), link
        if anchor:
            assert anchor in set(anchors(target)), link


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_code_is_python(page):
    for code in re.findall(r"(?ms)^```python\n(.*?)^```$", page.read_text()):
        compile(code, named(page), "exec")


def test_the_site_lists_every_page():
    listed = re.findall(r": (\S+\.md)$", (ROOT / "mkdocs.yml").read_text(), flags=re.M)
    assert sorted(listed) == sorted(map(named, PAGES))


@pytest.mark.parametrize(
    "package",
    [
        *("jacfast", "jacfast.attacks", "jacfast.attacks.adapters", "jacfast.data"),
        *("jacfast.evaluation", "jacfast.models", "jacfast.ops", "jacfast.penalties"),
        *("jacfast.plots", "jacfast.robustness", "jacfast.training"),
    ],
)
def test_the_reference_has_every_public_name(package):
    pages = "".join(page.read_text() for page in (ROOT / "docs" / "api").glob("*.md"))
    shown = set(re.findall(r"(?m)^::: (\S+)$", pages))
    module = importlib.import_module(package)
    lacking = []
    for name in set(module.__all__) - {"__version__"}:
        found = getattr(module, name)
        home = getattr(found, "__module__", None)
        where = (
            f"{home}.{getattr(found, '__qualname__', '')}"
            if home
            else f"jacfast.attacks.options.{name}"
        )
        if not inspect.ismodule(found) and where not in shown:
            lacking.append(f"::: {where}")
    assert not lacking, "a page of docs/api must have these lines"
