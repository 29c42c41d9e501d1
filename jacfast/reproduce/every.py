"""All tables, the cheapest first."""

import dataclasses
import functools
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch.utils.flop_counter import FlopCounterMode

from jacfast import data
from jacfast.models import load_factory
from jacfast.reproduce.config import Table, Training, load, names
from jacfast.reproduce.data_sets import data_set, taken
from jacfast.training.mode import set_mode

DIGITS = "MNIST"  # 5,000 of them are at hand without a folder, for quick runs
STEPS = 40  # of an attack that a column or a spec does not say more of


@dataclasses.dataclass(frozen=True)
class Planned:
    """A table, the folder of its data set, and about how many operations it takes.

    Attributes:
        folder: None: the digits that are at hand.
        operations: floating point, by counting passes; 0 of a table that is there.
    """

    table: Table
    folder: Path | None
    operations: float


def plan(
    folders: Sequence[Path], out: Path, quick: bool = False
) -> tuple[list[Planned], dict[str, str]]:
    """Return the tables whose data are given, the cheapest first, and why others are left out.

    Args:
        folders: of data sets, one each.
        out: of the runs, a folder for each table.
        quick: as in `reproduce`.

    Raises:
        ValueError: two folders hold the same data set, or none holds one that a table needs.
        FileNotFoundError: a folder holds no data set.
    """
    found: dict[str, tuple[Path | None, int]] = {DIGITS: (None, 5000)} if quick else {}
    for folder in folders:
        split = data.load(folder)
        name = data_set(split)
        if name in found and found[name][0] is not None:
            raise ValueError(
                f"data must hold each data set once; got {name} in {found[name][0]} and {folder}"
            )
        found[name] = (folder, len(split.train_x))
    planned, left_out = [], {}
    for name in names():
        table = load(name, quick)
        there = [found[each] for each in taken(table) if each in found]
        if not there:
            left_out[name] = f"needs {' or '.join(taken(table))}, which is not among the data"
            continue
        place, samples = there[0]
        done = (out / name / "result.json").exists()
        planned.append(Planned(table, place, 0 if done else operations(table, samples)))
    if not planned:
        raise ValueError(
            f"data must hold a data set that a table needs; got {', '.join(found) or 'none'}"
        )
    return sorted(planned, key=lambda each: each.operations), left_out


def estimated(planned: Sequence[Planned]) -> Iterator[tuple[Planned, float | None]]:
    """Yield each table with the seconds that it and those after it will take; None: not known yet.

    By the operations of the tables that were made between the yields, and how long they took.
    """
    took = finished = 0.0
    left = sum(each.operations for each in planned)
    for each in planned:
        begun = time.perf_counter()
        yield each, took / finished * left if finished else None
        if each.operations:  # a table that was there takes no time, and tells nothing
            took += time.perf_counter() - begun
            finished += each.operations
            left -= each.operations


def operations(table: Table, samples: int) -> float:
    """Return about how many floating-point operations a table takes, on `samples` images.

    A backward pass counts as two forward ones, a penalty as another training step, a step of an
    attack as a forward and half a backward pass, one of DeepFool as those of two classes more.
    """
    samples = min(samples, table.train_samples or samples) - table.validation
    passes = 0.0
    if table.base is not None and any(not row.fresh for row in table.rows):
        passes += _training(table.base, samples)
    for row in table.rows:
        trained = row.candidates(table.trial_epochs if row.lams else 0)
        if row.lams and table.trial_epochs:
            trained += row.candidates()[:1]  # the chosen one, in full
        passes += sum(_training(training, samples) for training in trained)
        passes += table.samples * STEPS * 2 * (len(table.columns) + len(row.lams))
        for curve in table.curves:
            steps = curve.options.get("steps", 1)
            passes += len(curve.epsilons) * curve.samples * steps * 2
    return passes * _forward(table.model, table.data) * len(table.seeds)


def _training(training: Training, samples: int) -> float:
    """Return the forward passes of a phase."""
    step = 3 * (2 if training.penalty else 1) * (2 if training.twins else 1)
    attacked = 0.0
    if training.attack:
        each = 4 if training.attack["name"] == "deepfool" else 2
        attacked = each * training.attack.get("steps", 1) * training.share
    attacks = attacked if training.once else attacked * training.epochs
    return samples * (step * training.epochs + attacks)


@functools.cache
def _forward(model: str, images: str) -> int:
    """Return the operations of a forward pass of one image of a data set."""
    with torch.random.fork_rng(devices=[]):
        network = set_mode(load_factory(model), training=False)
    shape = (1, 3, 32, 32) if images.startswith("CIFAR") else (1, 1, 28, 28)
    with FlopCounterMode(display=False) as counted, torch.no_grad():
        network(torch.zeros(shape))
    return counted.get_total_flops()
