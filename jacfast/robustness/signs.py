"""Signs that gradients hide how near the boundaries are."""

import dataclasses

from torch import Tensor

from jacfast.attacks.gradient import MEANS
from jacfast.robustness.attacked import Attacked

SHORTER = 1.1  # PGD's change must be so many times shorter than the minimal norm to count


@dataclasses.dataclass(frozen=True)
class Sign:
    """A sign of masked gradients: how many samples show it, and whether these are too many.

    Attributes:
        name: of the sign.
        share: of the samples that are classified correctly.
        limit: up to which a network with plain gradients comes.
        means: who is counted, and what follows.
    """

    name: str
    share: float
    limit: float
    means: str

    @property
    def found(self) -> bool:
        """Say whether it is a finding."""
        return self.share > self.limit

    def __str__(self) -> str:
        found = "FOUND" if self.found else "not found"
        return (
            f"{self.name}: {found}, {100 * self.share:.1f}% of those that are right. {self.means}"
        )


def signs(found: Attacked) -> tuple[Sign, ...]:
    """Return every sign, found or not."""
    lost = found.minimal > SHORTER * found.pgd
    return (
        Sign(
            "zero gradients",
            _share(found.still),
            0.0,
            f"The gradient of their margin in x is zero or not finite: {MEANS}.",
        ),
        Sign(
            "saturated cross-entropy",
            _share(found.saturated),
            0.0,
            "Their softmax - e_y rounds to zero: attacks on the plain cross-entropy, such as those "
            "of other toolboxes, do not move. The attacks of this report do.",
        ),
        Sign(
            "logits x 100",
            _most(found.scaled),
            0.05,
            "PGD fools them from the same start only where the logits are multiplied by 100: their "
            "scale hides the way from the cross-entropy. The worst case counts both.",
        ),
        Sign(
            "PGD below the minimal norm",
            _share(lost),
            0.05,
            "PGD fools them by a change that is shorter by more than a tenth than that of "
            "minimal_norm, or alone finds one: linearised boundaries lead that search astray. "
            "The worst case counts both; there may be still shorter ones.",
        ),
        Sign(
            "random starts",
            _most(found.later),
            0.05,
            "PGD fools them from one of its further random starts, and not from the first: "
            "gradients lead astray, and still more starts would fool more.",
        ),
        Sign(
            "random outputs",
            _share(found.drawn),
            0.0,
            "Their logits differ between two calls: one evaluation proves neither success nor "
            "robustness. Attack the mean of many calls.",
        ),
    )


def _share(who: Tensor) -> float:
    return float(who.double().mean())


def _most(who: Tensor) -> float:
    """Return the largest share at one eps."""
    return float(who.double().mean(dim=0).max())
