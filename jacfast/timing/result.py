"""What `jacfast.bench` found: rows, as a table, as words and as JSON."""

import dataclasses
import math
from typing import Any

from jacfast.json_text import as_json, finite
from jacfast.timing.table import table


@dataclasses.dataclass
class Row:
    """A contender's figures; None where there are none, and `why` says why not.

    Attributes:
        group: of those that compute the same; "" of the plain step.
        main: whether that is what was asked for.
        seconds: of a step, the median; of one step, as long as it had no turn.
        spread: the middle half of the times, in medians; None of who had no turn.
        plain_steps: seconds over those of the plain step.
        peak_bytes: allocated at once, beyond what was there.
        error: of the gradient, relative to plain autograd's.
        made: seconds that the first call took longer than a later one, of those that compile.
        passes: backward passes of the penalty.
    """

    name: str
    group: str
    main: bool
    passes: int
    compiles: bool
    seconds: float | None = None
    spread: float | None = None
    plain_steps: float | None = None
    peak_bytes: int | None = None
    error: float | None = None
    made: float | None = None
    why: str | None = None


@dataclasses.dataclass
class Result:
    """The rows, and what they are of. ``str()`` is a table, with the best and why not the others.

    Attributes:
        about: model, shapes, penalty, mode, device.
        environment: the machine and the versions.
        check: how the gradients were checked.
        rows: the plain step first.
        notes: what was left out, and why.
        deepfool: against foolbox, by `jacfast.timing.attacks`; empty if not asked for.
        rounds: turns of each.
        interrupted: whether it ended before its time.
    """

    about: dict[str, Any] = dataclasses.field(default_factory=dict)
    environment: dict[str, str] = dataclasses.field(default_factory=dict)
    check: str = ""
    rows: list[Row] = dataclasses.field(default_factory=list)
    notes: list[str] = dataclasses.field(default_factory=list)
    deepfool: dict[str, Any] = dataclasses.field(default_factory=dict)
    rounds: int = 0
    interrupted: bool = False

    def __str__(self) -> str:
        return table(self)

    def __repr__(self) -> str:
        best = self.best
        words = f"best: {best.name}" if best else "nothing timed"
        return f"Result({len(self.rows)} rows, {words})"

    @property
    def best(self) -> Row | None:
        """The fastest of those that compute what was asked for, and had a turn."""
        timed = [row for row in self.rows if row.main and row.spread is not None]
        return min(timed, key=lambda row: row.seconds or math.inf, default=None)

    def to_dict(self) -> dict[str, Any]:
        """Return everything, as what JSON knows: NaN and infinity as None."""
        best = self.best
        found = dataclasses.asdict(self) | {"best": best.name if best else None}
        return finite(found)

    def to_json(self) -> str:
        """Return everything as one JSON object."""
        return as_json(self.to_dict(), indent=2)
