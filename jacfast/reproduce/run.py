"""Reproduce a table: train, measure, compare; the same call goes on where a killed one stopped."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import torch
from torch import nn

from jacfast import data
from jacfast.data.split import on_device
from jacfast.files import write_atomically
from jacfast.reproduce import parts, recipe
from jacfast.reproduce.config import Row, Table, load
from jacfast.reproduce.data_sets import check, wanted
from jacfast.reproduce.measures import find
from jacfast.reproduce.seed import Run, file_of, made
from jacfast.runs import claimed
from jacfast.training.mode import set_mode
from jacfast.version import __version__

# Of a table: no figure hangs on them.
WORDS = ("title", "source", "remark", "pictures", "pictured", "paper_data")


def reproduce(
    name: str, out: Path, folder: Path | None = None, *, quick: bool = False, device: str = "cpu"
) -> dict[str, Any]:
    """Reproduce the table `name` in the folder `out`.

    Every network is trained by `jacfast.training.fit` with a checkpoint per epoch, every finished
    row leaves its figures; a call with the same arguments, and as many threads (OMP_NUM_THREADS or
    `torch.set_num_threads`), goes on from there.

    Args:
        name: one of `jacfast.reproduce.names()`.
        out: folder of the run.
        folder: of the data set; None: 5,000 digits of MNIST, for `quick` alone.
        quick: the same rows with less training and fewer images: minutes, and other figures.
        device: where to train and measure.

    Returns:
        The table with the figures, also in ``out/result.json``: per row the paper's, and mean and
        standard deviation over the seeds.

    Raises:
        ValueError: no such table, or `out` holds another run, or the data set is known to be
            another than the paper's: by its format, and Fashion-MNIST, which has MNIST's, by its
            checksum. (The tables of Deng, Zhang & Zhao take MNIST beside Fashion-MNIST, theirs.)
        FileNotFoundError: the data set is not there.
    """
    table = load(name, quick)
    for column in table.columns:
        find(column)
    for curve in table.curves:
        parts.attack({"name": curve.attack})
    if folder is None and not quick:
        raise ValueError(f"data must be a folder with {wanted(table)}; got none")
    split = data.load(folder)
    check(table, split)
    read = {"quick": quick, "data": split.name, "checksum": split.checksum, "device": device}
    read["jacfast"] = __version__
    read["threads"] = torch.get_num_threads()  # sums are of other bits with another number
    phases = [table.base, *(row.training for row in table.rows)]
    if precision := recipe.precision(phases, torch.device(device)):
        read["precision"] = precision
    about = dataclasses.asdict(table)
    counts = {name: value for name, value in about.items() if name not in WORDS}
    split, held = _shared_out(table, on_device(split, device))
    with claimed(out, "run.json", counts | read | {"data": split.name}):
        runs = [Run(table, seed, split, held, out / f"seed{seed}", device) for seed in table.seeds]
        figures = [[run.figures(i) for i in range(len(table.rows))] for run in runs]
        rows = [_summary(row, [run[i] for run in figures]) for i, row in enumerate(table.rows)]
        result = {"table": about} | read | {"rows": rows}
        write_atomically(json.dumps(result, indent=2).encode(), out / "result.json")
        return result


def networks(result: dict[str, Any], out: Path) -> dict[str, nn.Module]:
    """Return those networks of a finished run that its table pictures, of its first seed."""
    table, found = result["table"], {}
    for i, row in enumerate(table["rows"]):
        if row["name"] in table["pictured"]:
            folder = out / f"seed{table['seeds'][0]}"
            chosen = {"lam": result["rows"][i].get("lam", [None])[0]}
            file = file_of(i, row["lams"], chosen) if row["training"] else "base.pt"
            model = made(table["model"], table["seeds"][0])
            model.load_state_dict(torch.load(folder / file, map_location="cpu")["model"])
            found[row["name"]] = set_mode(model, training=False)
    return found


def _shared_out(table: Table, split: data.Split) -> tuple[data.Split, data.Split]:
    """Return what is trained and tested on, and the same with the images held out to test on."""
    x, y = split.train_x[: table.train_samples], split.train_y[: table.train_samples]
    left = len(x) - table.validation
    if left < 1:
        raise ValueError(
            f"validation must leave training images, of which there are {len(x)}; "
            f"got {table.validation}"
        )
    trained = dataclasses.replace(split, train_x=x[:left], train_y=y[:left])
    return trained, dataclasses.replace(trained, test_x=x[left:], test_y=y[left:])


def _summary(row: Row, runs: list[dict[str, Any]]) -> dict[str, Any]:
    columns = torch.tensor([run["figures"] for run in runs], dtype=torch.float64)
    spread = columns.std(0) if len(runs) > 1 else torch.zeros(columns.shape[1])
    curves = zip(*(run["curves"] for run in runs), strict=True)
    weights = {name: [run[name] for run in runs] for name in ("lam", "tried") if name in runs[0]}
    return weights | {
        "name": row.name,
        "paper": row.paper,
        "curves": [torch.tensor(each, dtype=torch.float64).mean(0).tolist() for each in curves],
        "ours": columns.mean(0).tolist(),
        "sd": spread.tolist(),
    }
