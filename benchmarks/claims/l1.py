"""Does the accuracy under FGSM grow with the weight of the entry-wise L1 norm?

Seck, Loosli & Canu, table 2: model C, no adversarial training, label smoothing 0.1, FGSM 0.3. The
paper leaves open what `seck-table2` had to choose; here each choice is made in another way, the
others being kept, with the smallest and the largest weight of the paper. 6,000 images and 10
epochs, where the table has 60,000 and 20; one choice has these. Beside the one large step of FGSM,
ten small ones (BIM, eps 0.1), to tell robustness from what one step does not find.
"""

import dataclasses

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from jacfast import models
from jacfast.attacks import bim, fgsm
from jacfast.data import Split
from jacfast.evaluation import accuracy
from jacfast.penalties import ColumnSumL1, EntrywiseL1
from jacfast.training import fit
from jacfast.training.process import Loss

BATCH, EPS, SMALL = 100, 0.3, 0.1
ENTRIES, COLUMNS, CLASSES = 7840, 784, 10
WEIGHTS = (0.1, 50.0)


@dataclasses.dataclass(frozen=True)
class Choice:
    """How the penalty is read."""

    of: str = "logits"
    sums: str = "entries"
    divided: int = ENTRIES  # the paper's weight, by this
    smoothing: float = 0.1
    rows: int = 1  # of the Jacobian, drawn per image
    images: int = 6000
    epochs: int = 10


CHOICES = {
    "the table's": Choice(),
    "the table's images and epochs": Choice(images=60_000, epochs=20),
    "all ten rows": Choice(rows=CLASSES),
    "no label smoothing": Choice(smoothing=0.0),
    "of the probabilities": Choice(of="probabilities"),
    "of the probabilities, summed over entries": Choice(of="probabilities", divided=1),
    "sums of columns": Choice(sums="columns", divided=COLUMNS),
    "sums of columns, not divided": Choice(sums="columns", divided=1),
    "summed over the batch": Choice(divided=ENTRIES // BATCH),
    "summed over entries": Choice(divided=1),
}


def runs() -> list[tuple[str, str]]:
    """Return (choice, weight) of all runs of a seed."""
    return [(name, f"{lam:g}") for name in CHOICES for lam in WEIGHTS]


class Networks:
    """The networks of one seed."""

    def __init__(self, split: Split, seed: int) -> None:
        self.split, self.seed = split, seed

    def measured(self, name: str, weight: str) -> dict[str, float]:
        """Train one network; return its accuracies, in percent."""
        torch.manual_seed(self.seed)
        model, choice = models.seck_c(), CHOICES[name]
        loss = _loss(choice, float(weight) / choice.divided)
        some, epochs = slice(choice.images), choice.epochs
        x, y = self.split.train_x[some], self.split.train_y[some]
        fit(model, x, y, epochs=epochs, batch_size=BATCH, lr=1e-3, seed=self.seed, loss=loss)
        x, y = self.split.test_x, self.split.test_y
        found = {
            "clean": x,
            "attacked": fgsm(model.eval(), x, y, eps=EPS),
            "small": bim(model, x, y, eps=SMALL, steps=10, step_size=SMALL / 4),
        }
        return {name: 100 * accuracy(model, moved, y) for name, moved in found.items()}


def _loss(choice: Choice, lam: float) -> Loss:
    penalty = EntrywiseL1(n=choice.rows) if choice.sums == "entries" else ColumnSumL1()

    def loss(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        logits = model(x.requires_grad_())
        entropy = F.cross_entropy(logits, y, label_smoothing=choice.smoothing)
        outputs = logits.softmax(1) if choice.of == "probabilities" else logits
        return entropy + lam * penalty(outputs, x)

    return loss
