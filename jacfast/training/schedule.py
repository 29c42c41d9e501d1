"""The weight of the penalty over the steps of a training."""

import dataclasses

from jacfast.checks import at_least, count, keep


@dataclasses.dataclass(frozen=True)
class Schedule:
    """lambda as a function of the step: 0, then a linear ramp, then constant.

    ``Schedule(lam)`` is constant; ``Schedule(lam, start=s)`` is post-processing after s steps of
    plain training (Jakubovitz & Giryes 2018, section 4); ``warmup=w`` reaches lam over w steps.

    Args:
        lam: the final weight, finite and >= 0.
        start: the first step, counted from 0, with a weight above 0; an integer >= 0.
        warmup: steps of the ramp, an integer >= 0; step ``start + i`` has weight
            ``lam (i + 1) / warmup``.

    Raises:
        TypeError: lam is no number, or start or warmup no integer. ValueError: one is out of range.
    """

    lam: float
    start: int = 0
    warmup: int = 0

    def __post_init__(self) -> None:
        keep(
            self,
            lam=at_least("lam", self.lam, 0),
            start=count("start", self.start, 0),
            warmup=count("warmup", self.warmup, 0),
        )

    def __call__(self, step: int) -> float:
        """Return the weight of step `step`, counted from 0."""
        if step < self.start:
            return 0.0
        done = step - self.start + 1
        return self.lam * min(1.0, done / self.warmup) if self.warmup else self.lam
