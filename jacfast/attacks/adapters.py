"""deepfool in the form in which other toolboxes call an attack.

Each function imports its toolbox when it is called, and passes `options` on to `deepfool`. What the
toolbox decides (bounds, labels, devices, normalisation) stays its own.
"""

from typing import Any

import torch
from torch import Tensor

from jacfast.attacks.deepfool import deepfool
from jacfast.attacks.options import PRESETS
from jacfast.calling import quiet


def for_foolbox(**options) -> Any:
    """Return a `foolbox.attacks` minimisation attack: ``attack(fmodel, x, y, epsilons=None)``.

    It gives what `L2DeepFoolAttack` (or, with ``p=inf``, `LinfDeepFoolAttack`) gives: raw and
    clipped inputs and success, for one epsilon, several or none. The box is that of the foolbox
    model; the other choices default to foolbox's.

    Args:
        options: of `deepfool`. `p` is also the norm of the epsilons.

    Raises:
        ImportError: foolbox is not installed. The attack, when called, raises what `deepfool` does,
            and ValueError for another criterion than Misclassification.
    """
    import eagerpy
    from foolbox.attacks.base import MinimizationAttack, get_criterion, raise_if_kwargs
    from foolbox.criteria import Misclassification
    from foolbox.distances import LpDistance

    class DeepFool(MinimizationAttack):
        distance = LpDistance(options.get("p", 2))

        def run(self, model, inputs, criterion, *, early_stop=None, **unknown):
            raise_if_kwargs(unknown)
            x, restore = eagerpy.astensor_(inputs)
            criterion = get_criterion(criterion)
            if not isinstance(criterion, Misclassification):
                raise ValueError(f"criterion must be Misclassification; got {criterion}")
            choices = {**PRESETS["foolbox"], "clip": tuple(model.bounds), **options}
            found = deepfool(model, x.raw, criterion.labels.raw, **choices)
            return restore(eagerpy.astensor(found.adversarial))

    return DeepFool()


def for_torchattacks(model: torch.nn.Module, steps: int = 50, **options) -> Any:
    """Return a `torchattacks` attack: ``attack(images, labels)`` gives adversarial images.

    As torchattacks' DeepFool: every class, [0, 1], each step clipped.

    Args:
        model: maps images [N, C, H, W] to logits [N, K]; torchattacks may normalise them for it.
        steps: `max_iter` of `deepfool`.
        options: of `deepfool`.

    Raises:
        ImportError: torchattacks is not installed. The attack, when called, raises what `deepfool`
            does.
    """
    from torchattacks.attack import Attack

    class DeepFool(Attack):
        def __init__(self) -> None:
            super().__init__("DeepFool", model)
            self.supported_mode = ["default"]

        def forward(self, images: Tensor, labels: Tensor) -> Tensor:
            x, y = images.detach().to(self.device), labels.detach().to(self.device)
            choices = {"candidates": None, "clip": (0.0, 1.0), "clip_steps": True, **options}
            return deepfool(self.get_logits, x, y, max_iter=steps, **choices).adversarial

    return DeepFool()


def for_art(classifier: Any, batch_size: int = 128, **options) -> Any:
    """Return an ART evasion attack over a `PyTorchClassifier`: ``attack.generate(x)`` on arrays.

    As ART's DeepFool: the predicted class is left, given labels are not looked at.

    Args:
        classifier: whose model is attacked, on its device, in the box of its `clip_values`.
        batch_size: samples at a time.
        options: of `deepfool`.

    Raises:
        ImportError: adversarial-robustness-toolbox is not installed. `generate`, when called,
            raises what `deepfool` does.
    """
    from art.attacks.attack import EvasionAttack
    from art.estimators.classification import PyTorchClassifier

    class DeepFool(EvasionAttack):
        _estimator_requirements = (PyTorchClassifier,)

        def generate(self, x, y=None, **_):
            network, box = self.estimator._model, self.estimator.clip_values
            if box is not None:
                box = float(box[0]), float(box[1])
            choices = {**PRESETS["art"], "clip": box, "clip_steps": box is not None, **options}
            at = torch.from_numpy(x).to(self.estimator.device)
            with quiet(network):
                found = deepfool(lambda z: network(z)[-1], at, batch_size=batch_size, **choices)
            return found.adversarial.cpu().numpy()

    return DeepFool(estimator=classifier)


def for_attackbench(
    model: torch.nn.Module,
    inputs: Tensor,
    labels: Tensor,
    targets: Tensor | None = None,
    targeted: bool = False,
    **options,
) -> Tensor:
    """Attack as AttackBench (and adv-lib) call an attack; return adversarial inputs in [0, 1].

    Args:
        model: maps [N, ...] to logits [N, K].
        inputs: [N, ...], floating point, in [0, 1].
        labels: [N] int64, the classes to leave; not looked at where `targeted`.
        targets: [N] int64, the classes to reach; needed where `targeted`, else not looked at.
        options: of `deepfool`; those not given are adv-lib's.

    Returns:
        [N, ...], in the dtype of `inputs`, without a graph. Inputs that were not fooled come back
        as they were.

    Raises:
        TypeError, ValueError: as `deepfool`; or targeted without targets.

    Source: the form of the call: AttackBench (Cinà et al., AAAI 2025).
    """
    if targeted and targets is None:
        raise ValueError("targeted=True needs targets, the classes to reach; got None")
    choices = {**PRESETS["advlib"], **options}
    wanted = {"target": targets} if targeted else {"y": labels}
    found = deepfool(model, inputs, **wanted, **choices)
    fooled = found.success.view(-1, *[1] * (inputs.dim() - 1))
    return torch.where(fooled, found.adversarial, inputs)
