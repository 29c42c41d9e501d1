"""Other toolboxes' DeepFool behind one call, each with the choices of ours that are its own."""

import dataclasses
import warnings
from collections.abc import Callable

import torch
from torch import Tensor, nn

from jacfast.attacks import PRESETS

Attack = Callable[[Tensor, Tensor], Tensor]  # (x, y) -> adversarial
ART_AT_ONCE = 128  # as a user would choose it; its default is 1


@dataclasses.dataclass(frozen=True)
class Peer:
    """A toolbox: how to make its attack, and `deepfool`'s arguments for the same semantics."""

    package: str
    make: Callable[[nn.Module, Tensor, int], Attack]  # model, example images, classes
    choices: dict
    repeats: int  # timings worth their time; 0: once, without warming up
    at_once: int | None = None  # images that it looks at, and by which its success is; None: all
    predicted: bool = False  # it leaves the predicted class, whatever y is


def _foolbox(candidates: int | None) -> Callable[[nn.Module, Tensor, int], Attack]:
    def make(model: nn.Module, x: Tensor, classes: int) -> Attack:
        import foolbox

        attack = foolbox.attacks.L2DeepFoolAttack(steps=50, candidates=candidates, overshoot=0.02)
        peer = foolbox.PyTorchModel(model, bounds=(0, 1), device=x.device)
        return lambda x, y: attack(peer, x, y, epsilons=None)[0]

    return make


def _art(model: nn.Module, x: Tensor, classes: int) -> Attack:
    from art.attacks.evasion import DeepFool
    from art.estimators.classification import PyTorchClassifier

    classifier = PyTorchClassifier(
        model,
        nn.CrossEntropyLoss(),
        tuple(x.shape[1:]),
        classes,
        clip_values=(0.0, 1.0),
        device_type="gpu" if x.is_cuda else "cpu",
    )
    attack = DeepFool(classifier, batch_size=ART_AT_ONCE, verbose=False)
    return lambda x, y: torch.from_numpy(attack.generate(x.cpu().numpy())).to(x)


def _torchattacks(model: nn.Module, x: Tensor, classes: int) -> Attack:
    import torchattacks

    return torchattacks.DeepFool(model, steps=50, overshoot=0.02)


FOOLBOX = Peer("foolbox", _foolbox(10), PRESETS["foolbox"], 1)
FOOLBOX_ALL = Peer("foolbox", _foolbox(None), {**PRESETS["foolbox"], "candidates": None}, 1)
ART = Peer(
    "adversarial-robustness-toolbox",
    _art,
    PRESETS["art"],
    repeats=0,
    at_once=ART_AT_ONCE,
    predicted=True,
)
TORCHATTACKS = Peer(
    "torchattacks",
    _torchattacks,
    {"candidates": None, "clip": (0.0, 1.0), "clip_steps": True, "steps": 50},
    repeats=0,
    at_once=1,  # whatever it is given
)


def call(attack: Attack, x: Tensor, y: Tensor) -> Tensor:
    """Run the attack of another toolbox without its warnings."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return attack(x, y)
