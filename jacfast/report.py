"""A report in one HTML file: tables, pictures, configuration, environment; it loads nothing."""

import base64
import json
import platform
from collections.abc import Sequence
from html import escape
from typing import Any

import torch

from jacfast.version import __version__

PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<style>
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 70rem; margin: 2rem auto; padding: 0 1rem;
       color: #1a1a1a; background: #fff; }}
h1 {{ font-size: 1.5rem; }} h2 {{ font-size: 1.15rem; margin-top: 2rem; }}
.scroll {{ overflow-x: auto; }}
table {{ border-collapse: collapse; font-variant-numeric: tabular-nums; }}
th, td {{ padding: .3rem .8rem; border-bottom: 1px solid #ddd; text-align: right; }}
td {{ white-space: nowrap; }}
th {{ border-bottom: 2px solid #444; vertical-align: bottom; }}
th:first-child, td:first-child {{ text-align: left; }}
@media (max-width: 40rem) {{
  table {{ font-size: .85rem; }}
  th, td {{ padding: .3rem; }} td:first-child {{ white-space: normal; }}
}}
img {{ max-width: 100%; height: auto; }}
pre {{ background: #f5f5f5; padding: 1rem; overflow-x: auto; font-size: .85rem; }}
</style></head><body>
<h1>{title}</h1>
{sections}
</body></html>
"""


def page(title: str, sections: Sequence[tuple[str, str]]) -> bytes:
    """Return a page of (heading, HTML) sections, as UTF-8."""
    body = "\n".join(f"<h2>{escape(heading)}</h2>\n{html}" for heading, html in sections)
    return PAGE.format(title=escape(title), sections=body).encode()


def table(cells: Sequence[Sequence[str]]) -> str:
    """Return an HTML table; the first row is the heading."""
    head = "".join(f"<th>{escape(cell)}</th>" for cell in cells[0])
    rows = ("".join(f"<td>{escape(cell)}</td>" for cell in row) for row in cells[1:])
    body = "\n".join(f"<tr>{row}</tr>" for row in rows)
    return f'<div class="scroll"><table>\n<tr>{head}</tr>\n{body}\n</table></div>'


def picture(png: bytes, text: str) -> str:
    """Return a picture that the page carries in itself; `text` is what it shows, in words."""
    data = base64.b64encode(png).decode()
    return f'<img alt="{escape(text)}" src="data:image/png;base64,{data}">'


def words(text: str) -> str:
    """Return a paragraph."""
    return f"<p>{escape(text)}</p>"


def values(found: Any) -> str:
    """Return a configuration as it is."""
    return f"<pre>{escape(json.dumps(found, indent=2, default=str))}</pre>"


def environment() -> dict[str, Any]:
    """Return what figures depend on beside the configuration."""
    return {
        "jacfast": __version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "machine": platform.machine(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }
