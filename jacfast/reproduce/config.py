"""What a table needs to be reproduced, as its file in tables/ says it."""

import dataclasses
import difflib
import re
import tomllib
from importlib import resources
from typing import Any

from jacfast.checks import count
from jacfast.reproduce.phase import Training

FOLDER = resources.files("jacfast.reproduce") / "tables"


@dataclasses.dataclass(frozen=True)
class Row:
    """A method: its name, the paper's figures, and how it is trained."""

    name: str
    paper: list[float | None]
    training: Training | None  # None: the base is measured as it is
    fresh: bool  # from the initial weights, not from the base
    lams: list[float] = dataclasses.field(default_factory=list)  # to choose from: see `Table`
    lam_of: str = ""  # the row before this one whose chosen weight this one has

    def __post_init__(self) -> None:
        self.candidates()  # each weight is checked

    def candidates(self, epochs: int = 0) -> list[Training]:
        """Return the trainings of which one is chosen: that of the file, or one for each weight.

        Each has so many epochs; 0: those of the file.
        """
        if self.training is None:
            return []
        weights, epochs = self.lams or [self.training.lam], epochs or self.training.epochs
        return [dataclasses.replace(self.training, lam=lam, epochs=epochs) for lam in weights]


@dataclasses.dataclass(frozen=True)
class Curve:
    """Accuracy of every row against the size of an attack: a figure of the paper."""

    attack: str
    epsilons: list[float]
    samples: int
    options: dict[str, Any] = dataclasses.field(default_factory=dict)  # beside eps


@dataclasses.dataclass(frozen=True)
class Table:
    """One table of a paper.

    A row whose file gives several weights, ``lam = [0.01, 0.02]``, is trained with each, and one is
    chosen on the `validation` images, the last of the training set, on which nothing is trained: of
    the weights that keep the accuracy there within `tolerance` points of the base's, the one with
    the largest figure in the column `rank`, of the first `samples` of them; if none does, that of
    the highest accuracy. With `trial_epochs` the choice is among networks that were trained for so
    many, and the row's own network is trained with that weight alone. A row with the name of one
    before it for its weight, ``lam = "Jacobian"``, has the weight that was chosen for that one.
    """

    key: str
    title: str
    source: str
    data: str  # the data set that it is made of
    model: str
    columns: list[str]  # what is measured: see `measures.MEASURES`
    rank: str  # the column in which the order of the rows counts
    samples: int  # test images that are attacked
    rows: list[Row]
    base: Training | None = None  # what the rows start from
    train_samples: int | None = None
    validation: int = 0
    tolerance: float = 3.0
    trial_epochs: int = 0  # of each weight; 0: those of the row
    seeds: list[int] = dataclasses.field(default_factory=lambda: [0])
    reference: str = ""  # the row that columns such as "fgsm 0.5 ref" and "auc" measure by
    step_size: float = 0.1  # of the iterated attacks that are measured
    curves: list[Curve] = dataclasses.field(default_factory=list)
    pictures: list[str] = dataclasses.field(default_factory=list)  # of `jacfast plot`, to report
    pictured: list[str] = dataclasses.field(default_factory=list)  # rows that they show
    remark: str = ""
    paper_data: str = ""  # the paper's data set, which is taken as well, where it is another

    def __post_init__(self) -> None:
        count("trial_epochs", self.trial_epochs, 0)


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
    rows: list[Row] = []
    try:
        for row in read.pop("rows"):
            rows.append(_row(dict(row), every, less["every_row"], rows))
        table = Table(
            key=key,
            base=None if base is None else Training(**base | less["base"]),
            rows=rows,
            curves=[Curve(**curve) for curve in curves],
            **read | smaller,
        )
    except (TypeError, ValueError) as error:
        raise ValueError(f"table {key}: {error}") from error
    except KeyError as error:
        raise ValueError(f"table {key}: missing {error}") from error
    for row in table.rows:
        if row.lams and (row.fresh or table.base is None or table.validation < 1):
            raise ValueError(
                f"table {key}: lam of row {row.name} may be several where the row starts from a "
                f"base and validation is > 0; got {row.lams}, validation = {table.validation}"
            )
    known = [row.name for row in table.rows]
    for name in [*table.pictured, *filter(None, [table.reference])]:
        if name not in known:
            raise ValueError(
                f"table {key}: reference and pictured must be of the rows {', '.join(known)}; "
                f"got {name!r}"
            )
    return table


def _row(
    row: dict[str, Any], every: dict[str, Any], less: dict[str, Any], before: list[Row]
) -> Row:
    name, paper = row.pop("name"), row.pop("paper")
    options = every | row | less
    fresh = options.pop("fresh", False)
    lam = options.get("lam", 0.0)
    lams = lam if isinstance(lam, list) else []
    lam_of = lam if isinstance(lam, str) else ""
    if lams or lam_of:
        options["lam"] = (lams or _weights_of(lam_of, name, before))[0]  # until one is chosen
    training = Training(**options) if row or fresh else None
    return Row(name, [None if x == "" else x for x in paper], training, fresh, lams, lam_of)


def _weights_of(lam_of: str, name: str, before: list[Row]) -> list[float]:
    """Return the weights that the row `lam_of` has to choose from, for the row `name`."""
    several = {row.name: row.lams for row in before if row.lams}
    if lam_of not in several:
        raise ValueError(
            f"lam of row {name} must be numbers, or name a row before it that has several "
            f"({', '.join(several) or 'there is none'}); got {lam_of!r}"
        )
    return several[lam_of]
