"""Reproduce a table: train, measure, compare; the same call goes on where a killed one stopped."""

import dataclasses
import functools
import json
from pathlib import Path
from typing import Any

import torch
from torch import nn

from jacfast import data, models
from jacfast.data.split import on_device
from jacfast.files import write_atomically
from jacfast.models.loading import check_state
from jacfast.reproduce import parts
from jacfast.reproduce.config import Row, Table, Training, load
from jacfast.reproduce.measures import Subject, find, measure
from jacfast.runs import claimed
from jacfast.training import checkpoint
from jacfast.training.fit import fit
from jacfast.training.seeded import seeded
from jacfast.version import __version__

WORDS = ("title", "source", "remark", "pictures", "pictured")  # of a table: no figure hangs on them


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
        ValueError: no such table, or another data set than the paper's, or `out` holds another run.
        FileNotFoundError: the data set is not there.
    """
    table = load(name, quick)
    for column in table.columns:
        find(column)
    for curve in table.curves:
        parts.attack({"name": curve.attack})
    if folder is None and not quick:
        raise ValueError(f"data must be a folder with {table.data}, as in the paper; got none")
    split = data.load(folder)
    if split.name.split()[0] != table.data:
        raise ValueError(f"data must be {table.data}, as in the paper; got {split.name}")
    read = {"quick": quick, "data": split.name, "checksum": split.checksum, "device": device}
    read["jacfast"] = __version__
    read["threads"] = torch.get_num_threads()  # sums are of other bits with another number
    about = dataclasses.asdict(table)
    counts = {name: value for name, value in about.items() if name not in WORDS}
    few = slice(table.train_samples)
    split = dataclasses.replace(split, train_x=split.train_x[few], train_y=split.train_y[few])
    split = on_device(split, device)
    with claimed(out, "run.json", counts | read | {"data": split.name}):
        runs = [Run(table, seed, split, out / f"seed{seed}", device) for seed in table.seeds]
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
            file = folder / (f"row{i}.pt" if row["training"] else "base.pt")
            model = _made(table["model"], table["seeds"][0])
            model.load_state_dict(torch.load(file, map_location="cpu")["model"])
            found[row["name"]] = model.eval()
    return found


def _made(model: str, seed: int) -> nn.Module:
    """Return a new network, its weights by the seed, on the CPU."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return models.load_factory(model)


@dataclasses.dataclass(frozen=True)
class Run:
    """One seed of a table, in a folder of its own."""

    table: Table
    seed: int
    split: data.Split
    folder: Path
    device: str

    def figures(self, i: int) -> dict[str, Any]:
        """Train and measure row i, or read what an earlier call measured."""
        done = self.folder / f"row{i}.json"
        if done.exists():
            return json.loads(done.read_text())
        model = self.trained(i)
        subject = self._subject(i, model)
        figures = measure(self.table.columns, subject)
        with seeded(model, self.seed):
            curves = [subject.curve(curve) for curve in self.table.curves]
        found = {"figures": figures, "curves": curves}
        write_atomically(json.dumps(found).encode(), done)
        return found

    def trained(self, i: int) -> nn.Module:
        """Return the network of row i, in eval mode; what was trained before is taken over."""
        row = self.table.rows[i]
        self.folder.mkdir(exist_ok=True)
        model = _made(self.table.model, self.seed).to(self.device)
        if self.table.base is not None and not row.fresh:
            self._train(model, self.table.base, self.folder / "base.pt", "base")
        if row.training is not None:
            self._train(model, row.training, self.folder / f"row{i}.pt", row.name)
        return model.eval()

    def _subject(self, i: int, model: nn.Module) -> Subject:
        x, y, row = self.split.test_x, self.split.test_y, self.table.rows[i]
        return Subject(model, x, y, self.table, row, lambda: self.reference)

    @functools.cached_property
    def reference(self) -> Subject:
        """The row that others are measured by."""
        if not self.table.reference:
            raise ValueError("reference must name a row for columns that measure by one; got none")
        i = [row.name for row in self.table.rows].index(self.table.reference)
        return self._subject(i, self.trained(i))

    def _train(self, model: nn.Module, training: Training, save: Path, name: str) -> None:
        x, y = self.split.train_x, self.split.train_y
        config: checkpoint.Config = {
            "training": json.dumps(dataclasses.asdict(training)),
            "seed": self.seed,
        }
        if save.exists():
            state = checkpoint.read(save, config)
            if state["epoch"] == training.epochs:
                check_state(model, state["model"], f"checkpoint {save}")
                model.load_state_dict(state["model"])
                return
        if training.once:
            with seeded(model, self.seed):
                x = parts.attacked(training, model, x, y)
        model.train(training.mode == "train")
        fit(
            model,
            x,
            y,
            epochs=training.epochs,
            batch_size=training.batch_size,
            lr=training.lr,
            loss=parts.loss(training),
            seed=self.seed,
            save=save,
            config=config,
            resume=True,
            name=name,
        )


def _summary(row: Row, runs: list[dict[str, Any]]) -> dict[str, Any]:
    columns = torch.tensor([run["figures"] for run in runs], dtype=torch.float64)
    spread = columns.std(0) if len(runs) > 1 else torch.zeros(columns.shape[1])
    curves = zip(*(run["curves"] for run in runs), strict=True)
    return {
        "name": row.name,
        "paper": row.paper,
        "curves": [torch.tensor(each, dtype=torch.float64).mean(0).tolist() for each in curves],
        "ours": columns.mean(0).tolist(),
        "sd": spread.tolist(),
    }
