"""What a table needs to be reproduced, as its file in tables/ says it."""

import dataclasses
import difflib
import re
import tomllib
from importlib import resources
from typing import Any

from jacfast.training.defence import Place

FOLDER = resources.files("jacfast.reproduce") / "tables"


@dataclasses.dataclass(frozen=True)
class Training:
    """One phase of training by Adam; what the loss is made of beside it see `parts.loss`."""

    epochs: int = 1
    batch_size: int = 500
    lr: float = 1e-3
    lam: float = 0.0
    penalty: dict[str, Any] = dataclasses.field(default_factory=dict)
    attack: dict[str, Any] = dataclasses.field(default_factory=dict)
    once: bool = False  # attack a share of the images before the phase, not of a batch in its step
    share: float = 1.0
    twins: bool = False
    penalise: Place = "clean"
    smoothing: float = 0.0
    layer: str | None = None
    mode: str = "eval"  # of dropout, while training: "train" or "eval"


@dataclasses.dataclass(frozen=True)
class Row:
    """A method: its name, the paper's figures, and how it is trained."""

    name: str
    paper: list[float | None]
    training: Training | None  # None: the base is measured as it is
    fresh: bool  # from the initial weights, not from the base


@dataclasses.dataclass(frozen=True)
class Curve:
    """Accuracy of every row against the size of an attack: a figure of the paper."""

    attack: str
    epsilons: list[float]
    samples: int
    options: dict[str, Any] = dataclasses.field(default_factory=dict)  # beside eps


@dataclasses.dataclass(frozen=True)
class Table:
    """One table of a paper."""

    key: str
    title: str
    source: str
    data: str  # the data set of the paper
    model: str
    columns: list[str]  # what is measured: see `measures.MEASURES`
    rank: str  # the column in which the order of the rows counts
    samples: int  # test images that are attacked
    rows: list[Row]
    base: Training | None = None  # what the rows start from
    train_samples: int | None = None
    seeds: list[int] = dataclasses.field(default_factory=lambda: [0])
    reference: str = ""  # the row that columns such as "fgsm 0.5 ref" and "auc" measure by
    step_size: float = 0.1  # of the iterated attacks that are measured
    curves: list[Curve] = dataclasses.field(default_factory=list)
    pictures: list[str] = dataclasses.field(
        default_factory=list
    )  # of `jacfast plot`, in the report
    pictured: list[str] = dataclasses.field(default_factory=list)  # rows that they show
    remark: str = ""


def names() -> list[str]:
    """Return the tables that can be reproduced, table 2 before table 11."""
    files = (file.name for file in FOLDER.iterdir())
    found = (name.removesuffix(".toml") for name in files if name.endswith(".toml"))
    return sorted(found, key=lambda name: [part.zfill(3) for part in re.split(r"(\d+)", name)])


def load(name: str, quick: bool = False) -> Table:
    """Read a table; `quick` applies its [quick] section: less of everything, the same rows.

    Raises:
        ValueError: there is no such table.
    """
    if name not in names():
        near = difflib.get_close_matches(name, names(), 1)
        meant = f" (did you mean {near[0]}?)" if near else ""
        raise ValueError(f"name must be one of {', '.join(names())}; got {name!r}{meant}")
    return parse(name, tomllib.loads((FOLDER / f"{name}.toml").read_text()), quick)


def parse(key: str, read: dict[str, Any], quick: bool = False) -> Table:
    """Make a table of what its file says.

    Raises:
        ValueError: a key is unknown or missing.
    """
    smaller = read.pop("quick", {}) if quick else {}
    read.pop("quick", None)
    base = read.pop("base", None)
    every = read.pop("every_row", {})  # what the rows have in common
    less = {name: smaller.pop(name, {}) for name in ("base", "every_row")}
    curves = smaller.pop("curves", read.pop("curves", []))
    try:
        table = Table(
            key=key,
            base=None if base is None else Training(**base | less["base"]),
            rows=[_row(dict(row), every, less["every_row"]) for row in read.pop("rows")],
            curves=[Curve(**curve) for curve in curves],
            **read | smaller,
        )
    except TypeError as error:
        raise ValueError(f"table {key}: {error}") from error
    except KeyError as error:
        raise ValueError(f"table {key}: missing {error}") from error
    known = [row.name for row in table.rows]
    for name in [*table.pictured, *filter(None, [table.reference])]:
        if name not in known:
            raise ValueError(
                f"table {key}: reference and pictured must be of the rows {', '.join(known)}; "
                f"got {name!r}"
            )
    return table


def _row(row: dict[str, Any], every: dict[str, Any], less: dict[str, Any]) -> Row:
    name, paper = row.pop("name"), row.pop("paper")
    options = every | row | less
    fresh = options.pop("fresh", False)
    training = Training(**options) if row or fresh else None
    return Row(name, [None if x == "" else x for x in paper], training, fresh)
