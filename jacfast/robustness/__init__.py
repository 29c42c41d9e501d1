"""How robust is a classifier, by several attacks at once, and can these be believed?"""

from jacfast.robustness.measure import robustness_report
from jacfast.robustness.result import RobustnessReport
from jacfast.robustness.signs import Sign

__all__ = ["RobustnessReport", "Sign", "robustness_report"]


def __dir__() -> list[str]:
    return sorted(__all__)
