"""jacfast reproduce NAME: a table of a paper, and how ours compares."""

import argparse
from pathlib import Path
from typing import Any

from jacfast.commands.arguments import (
    Help,
    add_device,
    add_json,
    add_quiet,
    existing_folder,
    folder,
)
from jacfast.json_text import as_json

PICTURED = 200  # test images that the pictures are of, as by `jacfast plot`


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    parser.formatter_class = Help
    parser.set_defaults(command=reproduce)
    add = parser.add_argument
    add("name", nargs="?", help="the table; without it they are listed")
    add("--out", type=folder, help="folder of the run, to go on in after an interruption")
    add(
        "--data",
        type=existing_folder,
        help="folder with the data set; with --quick 5,000 digits will do",
    )
    add("--quick", action="store_true", help="less training, fewer images: minutes")
    add_device(add)
    add_quiet(add)
    add_json(add)


def reproduce(
    name: str | None, out: Path | None, data: Path | None, json: bool, **options: Any
) -> int:
    """Train and measure, print the comparison, write the report; list the tables without a name."""
    from jacfast import reproduce as tables

    if name is None:
        for known in tables.names():
            table = tables.load(known)
            print(f"{known:<16} {table.source}: {table.title}")
        return 0
    tables.load(name, options["quick"])
    if out is None:
        raise ValueError("--out must be a folder for the run; got none")
    result = tables.reproduce(name, out, data, **options)
    files = tables.write(result, out, _pictures(result, out, data))
    written = ", ".join(str(out / file) for file in files)
    print(as_json(result) if json else f"\n{tables.text(result)}\n\nwritten: {written}")
    return 0


def _pictures(result: dict[str, Any], out: Path, data: Path | None) -> dict[str, tuple[str, bytes]]:
    """Return what the table's file asks for of `jacfast plot`: what it is, and a PNG, by name."""
    from jacfast import data as datasets
    from jacfast import reproduce as tables
    from jacfast.commands.pictures import PICTURES
    from jacfast.commands.plot import NAMES
    from jacfast.commands.subject import Subject
    from jacfast.plots import png

    if not result["table"]["pictures"]:
        return {}
    split = datasets.load(data)
    few = slice(PICTURED)
    subject = Subject(tables.networks(result, out), split.test_x[few], split.test_y[few], None)
    names = result["table"]["pictures"]
    return {name: (NAMES[name], png(PICTURES[name](subject))) for name in names}
