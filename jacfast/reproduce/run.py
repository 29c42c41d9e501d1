"""Reproduce a table: train, measure, compare; the same call goes on where a killed one stopped."""

import copy
import dataclasses
import json
import time
from pathlib import Path
from typing import Any

import torch
from torch import nn

from jacfast import data, models
from jacfast.files import write_atomically
from jacfast.reproduce import parts
from jacfast.reproduce.config import Row, Table, Training, load
from jacfast.reproduce.measures import Subject, find, measure
from jacfast.training.fit import fit


def reproduce(
    name: str, out: Path, folder: Path | None = None, *, quick: bool = False, device: str = "cpu"
) -> dict[str, Any]:
    """Reproduce the table `name` in the folder `out`.

    Every network is trained by `jacfast.training.fit` with a checkpoint per epoch, every finished
    row leaves its figures; a call with the same arguments goes on from there.

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
        ValueError: no such table, or another data set than the paper's, or `out` holds another run.
        FileNotFoundError: the data set is not there.
    """
    table = load(name, quick)
    for column in table.columns:
        find(column)
    if folder is None and not quick:
        raise ValueError(f"data must be a folder with {table.data}, as in the paper; got none")
    split = data.load(folder)
    if split.name.split()[0] != table.data:
        raise ValueError(f"data must be {table.data}, as in the paper; got {split.name}")
    about = {"table": dataclasses.asdict(table), "quick": quick, "data": split.name}
    _claim(out / "run.json", about)
    split = _on(split, table.train_samples, device)
    figures = [[_figures(table, i, seed, split, out, device) for i in range(len(table.rows))]
               for seed in table.seeds]  # fmt: skip
    rows = [_summary(row, [run[i] for run in figures]) for i, row in enumerate(table.rows)]
    result = about | {"rows": rows, "threads": torch.get_num_threads()}
    write_atomically(json.dumps(result, indent=2).encode(), out / "result.json")
    return result


def _claim(path: Path, about: dict[str, Any]) -> None:
    """Note what the folder is for, or refuse it if it is for something else."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(about, indent=2)
    if path.exists() and path.read_text() != text:
        raise ValueError(
            f"out must be a folder of the same run, or a new one; {path} is of another table, "
            "data set or configuration"
        )
    write_atomically(text.encode(), path)


def _on(split: data.Split, train_samples: int | None, device: str) -> data.Split:
    return dataclasses.replace(
        split,
        train_x=split.train_x[:train_samples].to(device),
        train_y=split.train_y[:train_samples].to(device),
        test_x=split.test_x.to(device),
        test_y=split.test_y.to(device),
    )


def _figures(
    table: Table, i: int, seed: int, split: data.Split, out: Path, device: str
) -> dict[str, Any]:
    """Train and measure row i with one seed, or read what an earlier call measured."""
    row, folder = table.rows[i], out / f"seed{seed}"
    done = folder / f"row{i}.json"
    if done.exists():
        return json.loads(done.read_text())
    folder.mkdir(exist_ok=True)
    start = time.perf_counter()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = models.load_factory(table.model).to(device)
    if table.base is not None and not row.fresh:
        _train(model, table.base, split, folder / "base.pt", seed, "base")
    if row.training is not None:
        model = copy.deepcopy(model)
        _train(model, row.training, split, folder / f"row{i}.pt", seed, row.name)
    trained = time.perf_counter()
    subject = Subject(model.eval(), split.test_x, split.test_y, table.samples)
    found = {
        "figures": measure(table.columns, subject),
        "seconds": {"training": trained - start, "measuring": time.perf_counter() - trained},
    }
    write_atomically(json.dumps(found).encode(), done)
    return found


def _train(
    model: nn.Module, training: Training, split: data.Split, save: Path, seed: int, name: str
) -> None:
    """Train in place, or take over what an earlier call trained."""
    model.train(training.mode == "train")
    fit(
        model,
        split.train_x,
        split.train_y,
        epochs=training.epochs,
        batch_size=training.batch_size,
        lr=training.lr,
        loss=parts.loss(training),
        seed=seed,
        save=save,
        config={"training": json.dumps(dataclasses.asdict(training)), "seed": seed},
        resume=True,
        name=name,
    )


def _summary(row: Row, runs: list[dict[str, Any]]) -> dict[str, Any]:
    columns = torch.tensor([run["figures"] for run in runs], dtype=torch.float64)
    spread = columns.std(0) if len(runs) > 1 else torch.zeros(columns.shape[1])
    return {
        "name": row.name,
        "paper": row.paper,
        "ours": columns.mean(0).tolist(),
        "sd": spread.tolist(),
        "seconds": sum(run["seconds"]["training"] for run in runs),
    }
