"""Receiver operating characteristics, each class against the rest."""

from typing import NamedTuple, Unpack

import torch
from torch import Tensor

from jacfast.attacks import losses
from jacfast.calling import AnyModel, Further, takes_model
from jacfast.evaluation.decision import check_decided
from jacfast.evaluation.predict import BATCH, predict
from jacfast.one_line import one_line

LARGEST = torch.finfo(torch.float64).max / 4  # whose differences do not overflow


class Roc(NamedTuple):
    """One class against the rest; float64 on the CPU.

    Attributes:
        false_positive: [T], rising from 0 to 1.
        true_positive: [T].
        auc: the area under the curve.
    """

    false_positive: Tensor
    true_positive: Tensor
    auc: float

    def __repr__(self) -> str:
        return one_line(self)


@takes_model
def roc_curves(
    model: AnyModel, x: Tensor, y: Tensor, *, batch_size: int = BATCH, **further: Unpack[Further]
) -> dict[int, Roc]:
    """Return the ROC curve of every class k in `y`, with the softmax probability of k as score.

    For each threshold h: the share of samples of other classes with ``p_k > h``, and the share of
    samples of class k with ``p_k > h``. By scikit-learn; corners that lie on a straight piece are
    left out.

    Args:
        model: maps [N, ...] to logits [N, K]; evaluated in eval mode and left as it was.
        x: [N, ...], floating point; perturbed images, say.
        y: [N] int64, true labels, of two classes at least.
        batch_size: samples at a time.

    Returns:
        The curves by class, of those classes that are in `y`.

    Raises:
        TypeError, ValueError: an argument is not as above, or a probability is not finite.
        ImportError: scikit-learn is not installed.

    Source: Deng, Zhang & Zhao, section 2.3 and figures 3.6 to 3.9.
    """
    try:
        from sklearn.metrics import auc, roc_curve
    except ImportError as error:
        raise ImportError(
            "roc_curves needs scikit-learn: run pip install 'jacfast[evaluation]'"
        ) from error
    logits = predict(model, x, batch_size)
    check_decided(logits, y)
    classes = y.unique().tolist()
    if len(classes) < 2:
        raise ValueError(f"y must hold two classes at least; got only {classes[0]}")
    if not bool(logits.softmax(dim=1).isfinite().all()):
        raise ValueError("the model's probabilities must be finite; got NaN")
    curves = {}
    for k in classes:  # by log(p / (1 - p)), which still tells apart what rounds to p = 1
        score = -losses.value("cross-entropy", logits, torch.full_like(y, k))
        score = score.clamp(-LARGEST, LARGEST)  # of impossible classes it is infinite
        false, true, _ = roc_curve((y == k).numpy(force=True), score.numpy(force=True))
        curves[k] = Roc(torch.from_numpy(false), torch.from_numpy(true), float(auc(false, true)))
    return curves
