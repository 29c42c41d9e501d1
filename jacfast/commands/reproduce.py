"""jacfast reproduce NAME: a table of a paper, and how ours compares; --all: all tables."""

import argparse
import sys
from pathlib import Path
from typing import Any

from jacfast.commands.arguments import Help, add_run, existing_folder, folder
from jacfast.json_text import as_json

PICTURED = 200  # test images that the pictures are of, as by `jacfast plot`


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    parser.formatter_class = Help
    parser.set_defaults(command=reproduce)
    add = parser.add_argument
    add("name", nargs="?", help="the table; without it they are listed")
    add(
        "--all",
        dest="every",
        action="store_true",
        help="every table whose data are given, the cheapest first",
    )
    add(
        "--out",
        type=folder,
        help="folder of the run, to go on in after an interruption; with --all of a run for each "
        "table, in a folder of its name",
    )
    add(
        "--data",
        type=existing_folder,
        nargs="+",
        default=[],
        help="folder with the data set; with --all one for each set; with --quick 5,000 digits "
        "will do",
    )
    add("--quick", action="store_true", help="less training, fewer images: minutes")
    add_run(add)


def reproduce(
    name: str | None, every: bool, out: Path | None, data: list[Path], json: bool, **options: Any
) -> int | str:
    """Train and measure, print the comparison, write the report; list the tables without a name."""
    from jacfast import reproduce as tables

    if name is None and not every:
        for option, value in (("out", out), ("data", data), ("quick", options["quick"])):
            if value:
                raise ValueError(f"--{option} needs the name of a table, or --all; got none")
        every_table = {known: tables.load(known) for known in tables.names()}
        listed = {name: f"{table.source}: {table.title}" for name, table in every_table.items()}
        if json:
            return as_json(listed)
        print("\n".join(f"{known:<16} {about}" for known, about in listed.items()))
        return 0
    if name is not None and every:
        raise ValueError(f"name must be left out with --all; got {name}")
    if name is not None:
        tables.load(name, options["quick"])
    if out is None:
        raise ValueError("--out must be a folder for the run; got none")
    if name is None:
        return _every(out, data, json, **options)
    if len(data) > 1:
        raise ValueError(f"--data must be one folder for one table; got {len(data)}")
    result, files = _one(name, out, data[0] if data else None, **options)
    if json:
        return as_json(result)
    written = ", ".join(str(out / file) for file in files)
    print(f"\n{tables.text(result)}\n\nwritten: {written}")
    return 0


def _every(out: Path, data: list[Path], json: bool, quick: bool, **options: Any) -> int | str:
    """Reproduce one table after the other, and say how long the rest will take."""
    from jacfast import reproduce as tables

    planned, left_out = tables.plan(data, out, quick)
    for name, why in left_out.items():
        print(f"{name}: left out, {why}", file=sys.stderr)
    results = {}
    for number, (each, seconds) in enumerate(tables.estimated(planned), 1):
        key = each.table.key
        left = "" if seconds is None else f", about {_duration(seconds)} left"
        print(f"{key}, {number} of {len(planned)}{left}", file=sys.stderr, flush=True)
        results[key], _ = _one(key, out / key, each.folder, quick=quick, **options)
        if not json:
            print(f"\n{tables.text(results[key])}\n", flush=True)
    if json:
        return as_json(results)
    print(f"written: {out}, a folder for each table")
    return 0


def _duration(seconds: float) -> str:
    """Return it in minutes, or in hours if there are some."""
    minutes = max(1, round(seconds / 60))
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def _one(
    name: str, out: Path, data: Path | None, **options: Any
) -> tuple[dict[str, Any], list[str]]:
    """Reproduce a table, write its report, and return the figures and the files."""
    from jacfast import reproduce as tables

    result = tables.reproduce(name, out, data, **options)
    return result, tables.write(result, out, _pictures(result, out, data))


def _pictures(result: dict[str, Any], out: Path, data: Path | None) -> dict[str, tuple[str, bytes]]:
    """Return what the table's file asks for of `jacfast plot`: what it is, and a PNG, by name."""
    from jacfast import data as datasets
    from jacfast import reproduce as tables
    from jacfast.commands.pictures import PICTURES
    from jacfast.commands.plot import NAMES
    from jacfast.commands.subject import NothingKnown, Subject
    from jacfast.plots import png

    if not result["table"]["pictures"]:
        return {}
    split = datasets.load(data)
    few = slice(PICTURED)
    subject = Subject(tables.networks(result, out), split.test_x[few], split.test_y[few], None)
    names = result["table"]["pictures"]
    try:
        return {name: (NAMES[name], png(PICTURES[name](subject))) for name in names}
    except NothingKnown as error:  # after a quick run, whose figures are there all the same
        print(f"{result['table']['key']}: without pictures, as {error}", file=sys.stderr)
        return {}
