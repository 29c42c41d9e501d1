"""docs/troubleshooting.md quotes what package and build say, and leaves no error text out."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "troubleshooting.md").read_text()
QUOTES = re.findall(r"(?m)^> (.*)$", PAGE)
OTHERS = {"Refused", "AttributeError"}  # the reason of a warning; Python's own words
VARIES = "{}"  # what an f-string fills in


def words(node):
    """The text of a string or f-string, as the user sees it but for what varies; else None."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        parts = node.values
        return "".join(p.value if isinstance(p, ast.Constant) else VARIES for p in parts)
    return None


def trees():
    for path in [ROOT / "setup.py", *sorted((ROOT / "jacfast").rglob("*.py"))]:
        yield path.relative_to(ROOT), ast.parse(path.read_text())


TEXTS = {text for _, tree in trees() for node in ast.walk(tree) if (text := words(node))}


def raised():
    """Where errors are raised with a text of their own, and that text."""
    for path, tree in trees():
        for node in ast.walk(tree):
            if not isinstance(node, ast.Raise) or not isinstance(node.exc, ast.Call):
                continue
            if ast.unparse(node.exc.func) in OTHERS or not node.exc.args:
                continue
            text = words(node.exc.args[0])
            if text and len(re.findall(r"[a-z]{2,}", text)) > 2:  # else it passes another one on
                yield pytest.param(text, id=f"{path}:{node.lineno}")


def pattern(quote):
    return ".*".join(map(re.escape, quote.split("…")))


@pytest.mark.parametrize("quote", QUOTES)
def test_what_is_quoted_is_said(quote):
    assert any(re.fullmatch(pattern(quote), text, flags=re.S) for text in TEXTS)


@pytest.mark.parametrize("text", list(raised()))
def test_every_error_has_a_paragraph(text):
    rule = r"(^| )must | needs "  # an argument breaks its rule: the text says which
    assert re.search(rule, text) or any(
        re.fullmatch(pattern(quote), text, flags=re.S) for quote in QUOTES
    ), text
