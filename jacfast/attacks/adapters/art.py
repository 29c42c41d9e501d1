"""deepfool and minimal_norm as evasion attacks of the Adversarial Robustness Toolbox."""

import sys
from typing import Any

import torch
from torch import Tensor

from jacfast import checks
from jacfast.attacks.adapters.choices import Name, choices
from jacfast.attacks.options import PRESETS
from jacfast.calling import quiet

NAMES = {
    "epsilon": "overshoot",
    "max_iter": "steps",
    "nb_grads": "candidates",
    "verbose": "progress",
}


def for_art(classifier: Any, *, batch_size: int = 128, attack: Name = "deepfool", **options) -> Any:
    """Return an ART evasion attack over a `PyTorchClassifier`: ``attack.generate(x)`` on arrays.

    Options go by name: ART's DeepFool has them in another order, `max_iter` first.

    As ART's DeepFool: the predicted class is left, given labels are not looked at. The classifier's
    preprocessing (normalisation, defences) is part of what is attacked, with the gradient that ART
    has of it; postprocessing counts in the logits, and not in their gradient. ART's own
    DeepFool multiplies each step by the width of `clip_values`; this one does not. With
    ``attack="minimal_norm"`` the same, with the shortest inputs that `minimal_norm` finds.

    Args:
        classifier: whose model is attacked, on its device, in the box of its `clip_values`.
        batch_size: samples at a time.
        attack: ``deepfool`` or ``minimal_norm``.
        options: of that attack; `nb_grads` is its `candidates`, of `deepfool` also `epsilon` its
            `overshoot`, `max_iter` its `steps`, `verbose` its `progress`.

    Raises:
        ImportError: adversarial-robustness-toolbox is not installed. TypeError, ValueError: an
            option is wrong, or `classifier` no PyTorchClassifier. `generate`, when called, raises
            what ours does.
    """
    from art.attacks.attack import EvasionAttack
    from art.config import ART_NUMPY_DTYPE
    from art.estimators.classification import PyTorchClassifier

    checks.count("batch_size", batch_size)
    box = classifier.clip_values if isinstance(classifier, PyTorchClassifier) else None
    clip = None if box is None else tuple(torch.as_tensor(bound, device="cpu") for bound in box)
    usual: dict[str, Any] = {"clip": clip}
    if attack == "deepfool":
        usual = {**PRESETS["art"], **usual, "clip_steps": box is not None}
        options["batch_size"] = batch_size
    chosen = choices("for_art", attack, NAMES, usual, options)
    # deepfool cuts, and shows, itself
    at_once = sys.maxsize if attack == "deepfool" else batch_size

    class Adapted(EvasionAttack):
        _estimator_requirements = (PyTorchClassifier,)

        def generate(self, x, y=None):
            network = self.estimator._model
            own = next((p.dtype for p in network.parameters() if p.is_floating_point()), None)
            at = torch.from_numpy(x.astype("float64" if own == torch.float64 else ART_NUMPY_DTYPE))
            with quiet(network):
                logits = _logits(self.estimator)
                device = self.estimator.device
                found = [chosen(logits, part.to(device)) for part in at.split(at_once)]
            return torch.cat([each.adversarial.cpu() for each in found]).numpy()

    Adapted.__name__ = chosen.title
    return Adapted(estimator=classifier)


def _logits(classifier: Any) -> Any:
    """Return the function from the raw inputs to the logits that `classifier.predict` has."""
    before = _Preprocessing.apply
    if classifier.all_framework_preprocessing:
        before = _in_torch

    def logits(x: Tensor) -> Tensor:
        z = classifier._model(before(x, classifier))[-1]
        if not classifier.postprocessing_defences:
            return z
        shown = classifier._apply_postprocessing(preds=z.detach().cpu().numpy(), fit=False)
        return z + (torch.as_tensor(shown, device="cpu").to(z) - z.detach())

    return logits


def _in_torch(x: Tensor, classifier: Any) -> Tensor:
    return classifier._apply_preprocessing(x, y=None, fit=False, no_grad=False)[0]


class _Preprocessing(torch.autograd.Function):
    """Preprocessing that ART does on arrays, with the gradient that ART estimates for it."""

    @staticmethod
    def forward(ctx, x: Tensor, classifier: Any) -> Tensor:
        ctx.x, ctx.classifier = x.detach().cpu().numpy(), classifier
        moved, _ = classifier._apply_preprocessing(ctx.x, y=None, fit=False)
        return torch.as_tensor(moved, device="cpu").to(x)

    @staticmethod
    def backward(ctx, g: Tensor) -> tuple[Tensor, None]:
        with torch.enable_grad():  # ART differentiates PyTorch's own steps among them
            estimate = ctx.classifier._apply_preprocessing_gradient(ctx.x, g.cpu().numpy())
        return torch.as_tensor(estimate, device="cpu").to(g), None
