"""What `robustness_report` found: figures, and the ways to look at them."""

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from jacfast import checks
from jacfast.checks import at_least, one_of
from jacfast.evaluation.distances import share_beyond
from jacfast.files import write_atomically
from jacfast.json_text import as_json, finite
from jacfast.robustness import shown
from jacfast.robustness.attacked import Attacked, Choices
from jacfast.robustness.signs import Sign, signs

if TYPE_CHECKING:
    from matplotlib.figure import Figure

WORST = "worst case"
MARK = "robustness.png"  # of a folder with a report


@dataclasses.dataclass(frozen=True, repr=False)
class RobustnessReport:
    """How N samples fared under every attack, and what may be hidden; ``str()`` is a table.

    Attributes:
        choices: the attacks' arguments: p, eps, budget, steps, restarts, clip.
        right: [N] bool, who is classified correctly.
        rho_adv: as `jacfast.rho_adv` has it, without a box.
        attacked: what was found at those who are right.
    """

    choices: Choices
    right: Tensor
    rho_adv: float
    attacked: Attacked

    @property
    def accuracy(self) -> float:
        """The share of samples that are classified correctly."""
        return float(self.right.double().mean())

    @property
    def distances(self) -> dict[str, Tensor]:
        """The least ``||r||_p`` that each attack found [N], and the worst case over all.

        PGD's at most its eps, past which x + r may round. Float64; 0 for samples that are
        misclassified as they are, inf where nothing was found.
        """
        found = self.attacked
        own = {"DeepFool": found.deepfool, "minimal norm": found.minimal, "PGD": found.pgd}
        own[WORST] = torch.stack(list(own.values())).amin(dim=0)
        whole = {name: torch.zeros_like(self.right, dtype=torch.float64) for name in own}
        for name, far in own.items():
            whole[name][self.right] = far
        return whole

    def robust_accuracy(self, eps: float, attack: str = WORST) -> float:
        """Return the share that is classified correctly and farther than eps, by `attack`.

        PGD was run at some sizes only; between these it is its curve at the next smaller one.

        Args:
            eps: >= 0, in the p-norm; at 0 it is the accuracy.
            attack: a name of `distances`.

        Raises:
            TypeError, ValueError: eps is no such number. ValueError: there is no such attack.
        """
        at_least("eps", eps, 0)
        one_of("attack", attack, tuple(self.distances))
        return share_beyond(eps, self.right, self.distances[attack])

    @property
    def signs(self) -> tuple[Sign, ...]:
        """Every sign of masked gradients, found or not."""
        return signs(self.attacked)

    @property
    def findings(self) -> tuple[Sign, ...]:
        """The signs that were found."""
        return tuple(sign for sign in self.signs if sign.found)

    def __str__(self) -> str:
        return shown.text(self)

    def __repr__(self) -> str:
        found = ", ".join(sign.name for sign in self.findings) or "none"
        return f"RobustnessReport({len(self.right)} samples, {shown.at(self)}, findings: {found})"

    def _repr_markdown_(self) -> str:
        return self.markdown()

    def markdown(self) -> str:
        """Return the table and the signs as Markdown."""
        return shown.markdown(self)

    def to_dict(self) -> dict[str, Any]:
        """Return the figures as what JSON knows: shares in 0 .. 1, infinity as None."""
        return finite(shown.figures(self))

    def figure(self) -> "Figure":
        """Draw robust accuracy against eps; needs matplotlib."""
        from jacfast.plots import robustness_figure

        return robustness_figure(self)

    def page(self) -> bytes:
        """Return one HTML page: table, signs, picture, configuration; it loads nothing."""
        from jacfast.robustness.page import page

        return page(self)

    def save(self, folder: Path | str) -> list[str]:
        """Write ``report.html``, ``robustness.png`` and ``figures.json``; return these names.

        The folder is made if it is not there.

        Raises:
            ValueError: the folder holds a file of such a name from elsewhere; nothing is changed.
        """
        from jacfast.plots import png

        folder = checks.path("folder", folder)
        check_folder(folder)
        files = {
            MARK: png(self.figure()),
            "report.html": self.page(),
            "figures.json": as_json(self.to_dict(), indent=2).encode(),
        }
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            write_atomically(content, folder / name)
        return ["report.html", MARK, "figures.json"]


def check_folder(folder: Path) -> None:
    """Refuse a folder with files that no report has written: those of ``jacfast harden``, say.

    A report writes its picture first; so a folder without it has the other files from elsewhere.

    Raises:
        ValueError: see above.
    """
    there = [name for name in ("report.html", "figures.json") if (folder / name).exists()]
    if there and not (folder / MARK).exists():
        raise ValueError(
            f"{' and '.join(there)} in {folder} would be overwritten, and no report is there that "
            "wrote them: use another folder"
        )
