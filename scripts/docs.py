"""Make the site's pages, build/pages, of the documents: run their code, show what it prints.

    python scripts/docs.py          every page
    python scripts/docs.py PAGE     one page, docs/start.md say
    python scripts/docs.py check    that the built site loads nothing from the network

The folder mirrors the repository, so that links hold in both. The blocks of a page run in one
process and one namespace, in order, after ``torch.manual_seed(0)``; one that raises ends the build.
A block that imports an optional package that is not installed is left out, and the page says so.
Names that are on their way out are errors.
"""

import contextlib
import importlib.util
import io
import re
import shutil
import subprocess
import sys
import time
import warnings
from pathlib import Path

ROOT = Path(__file__).parents[1]
OUT, SITE = ROOT / "build" / "pages", ROOT / "build" / "site"
FILES = ("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "LICENSE", "CITATION.cff", "docs")
FOLDERS = ("examples", "benchmarks/README.md", "benchmarks/results", "requirements.txt")
BLOCK = re.compile(r"(?ms)^```python\n(.*?)^```$")
OPTIONAL = {  # what a block may import: what must be there for it, by its name for pip
    "accelerate": {"accelerate": "accelerate"},
    "adv_lib": {"adv_lib": "adv-lib", "torchvision": "torchvision", "visdom": "visdom"},
    "art": {"art": "adversarial-robustness-toolbox"},
    "foolbox": {"foolbox": "foolbox"},
    "lightning": {"lightning": "lightning"},
    "torchattacks": {"torchattacks": "torchattacks"},
    "transformers": {"transformers": "transformers"},
}
LOADED = re.compile(
    r"""<(?:script|img|iframe|source)\b[^>]*\bsrc=["']?(?:https?:)?//[^"'> ]+"""
    r"""|<link\b(?=[^>]*rel=["']?(?:stylesheet|preload|preconnect|icon))[^>]*"""
    r"""href=["']?(?:https?:)?//[^"'> ]+"""
    r"""|(?:@import\s*|url\()["']?(?:https?:)?//[^"') ]+"""
)


def lacking(code: str) -> list[str]:
    """Return the optional packages that the code imports and that are not installed."""
    imported = re.findall(r"(?m)^(?:import|from) (\w+)", code)
    needed = {module: pip for name in imported for module, pip in OPTIONAL.get(name, {}).items()}
    return [pip for module, pip in needed.items() if importlib.util.find_spec(module) is None]


def run(text: str, name: str) -> str:
    """Return a page with what its blocks print, each below its block."""
    import torch

    torch.manual_seed(0)
    space: dict = {"__name__": "__main__"}

    def shown(block: re.Match) -> str:
        absent = lacking(block[1])
        if absent:
            return f"{block[0]}\n\n*Not run here, for want of: {', '.join(absent)}.*"
        printed = io.StringIO()
        line = text[: block.start(1)].count("\n")  # so that a traceback tells the page's line
        with contextlib.redirect_stdout(printed), warnings.catch_warnings():
            warnings.filterwarnings("error", category=DeprecationWarning, module="__main__")
            exec(compile("\n" * line + block[1], name, "exec"), space)
        found = printed.getvalue().rstrip()
        return f'{block[0]}\n\n```text title="prints"\n{found}\n```' if found else block[0]

    return BLOCK.sub(shown, text)


def unescape(text: str) -> str:
    """Write the bars in code of tables, which GitHub wants escaped, as Python-Markdown does."""
    rows = re.compile(r"(?m)^\|.*\|$")
    return rows.sub(
        lambda row: re.sub(r"`[^`]*`", lambda c: c[0].replace("\\|", "|"), row[0]), text
    )


def make(page: str) -> None:
    """Write one page."""
    text = (ROOT / page).read_text()
    (OUT / page).write_text(unescape(run(text, page) if BLOCK.search(text) else text))


def every() -> None:
    """Copy the documents and what they link to, and make each page in a process of its own."""
    shutil.rmtree(OUT, ignore_errors=True)
    for name in FILES + FOLDERS:
        source, target = ROOT / name, OUT / name
        target.parent.mkdir(parents=True, exist_ok=True)
        (shutil.copytree if source.is_dir() else shutil.copy)(source, target)
    for page in sorted(OUT.rglob("*.md")):
        name, start = str(page.relative_to(OUT)), time.monotonic()
        if not BLOCK.search(page.read_text()):
            make(name)
            continue
        subprocess.run([sys.executable, __file__, name], check=True, cwd=ROOT)
        print(f"{name}: its code ran, {time.monotonic() - start:.0f} s", flush=True)


def check() -> None:
    """Exit with what the site would load from the network."""
    pages = [path for end in ("html", "css") for path in SITE.rglob(f"*.{end}")]
    loaded = {page.relative_to(SITE): LOADED.findall(page.read_text()) for page in pages}
    found = [f"{page}: {', '.join(what)}" for page, what in loaded.items() if what]
    assert pages, f"{SITE} holds no pages"
    if found:
        sys.exit("\n".join(sorted(found)))
    print(f"{len(pages)} pages and styles of build/site load nothing from the network")


if __name__ == "__main__":
    what = sys.argv[1:]
    check() if what == ["check"] else make(what[0]) if what else every()
