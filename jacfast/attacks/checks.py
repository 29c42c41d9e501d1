"""What attacks ask of the first logits."""

from torch import Tensor

from jacfast import calling
from jacfast.attacks.losses import Criterion


def check_classes(logits: Tensor, wanted: Criterion) -> None:
    """Check that there is a class beside the label, and the labels against the number of them."""
    calling.check_classes(logits)
    name = "target" if wanted.targeted else "y"
    calling.check_labels(wanted.labels, *logits.shape, name=name)
