"""The weight of the penalty over the steps of a training."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Schedule:
    """lambda as a function of the step: 0, then a linear ramp, then constant.

    ``Schedule(lam)`` is constant; ``Schedule(lam, start=s)`` is post-processing after s steps of
    plain training (Jakubovitz & Giryes 2018, section 4); ``warmup=w`` reaches lam over w steps.

    Args:
        lam: the final weight, >= 0.
        start: the first step, counted from 0, with a weight above 0.
        warmup: steps of the ramp; step ``start + i`` has weight ``lam (i + 1) / warmup``.
    """

    lam: float
    start: int = 0
    warmup: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.lam < float("inf"):
            raise ValueError(f"lam must be finite and >= 0; got {self.lam}")
        for name in ("start", "warmup"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must be >= 0; got {getattr(self, name)}")

    def __call__(self, step: int) -> float:
        """Return the weight of step `step`, counted from 0."""
        if step < self.start:
            return 0.0
        done = step - self.start + 1
        return self.lam * min(1.0, done / self.warmup) if self.warmup else self.lam
