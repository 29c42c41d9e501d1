"""The choices of a report's attacks."""

import dataclasses

from jacfast.attacks.box import Clip


@dataclasses.dataclass(frozen=True)
class Choices:
    """As `robustness_report` has them; it says what each means."""

    p: float
    eps: tuple[float, ...]
    budget: int
    steps: int
    restarts: int
    clip: Clip
