"""An attack over many images, for the command line: figures, and one file."""

import inspect
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor, nn
from tqdm import tqdm

from jacfast.attacks.carlini_wagner import carlini_wagner
from jacfast.attacks.fgsm import fgsm
from jacfast.attacks.gradient import look
from jacfast.attacks.jsma import jsma
from jacfast.attacks.pgd import bim, pgd
from jacfast.attacks.stream import about, checksum
from jacfast.calling import quiet
from jacfast.files import claim, write_atomically

ATTACKS: dict[str, Callable[..., Tensor]] = {
    "bim": bim,
    "carlini_wagner": carlini_wagner,
    "fgsm": fgsm,
    "jsma": jsma,
    "pgd": pgd,
}
NORMS = (0, 2, float("inf"))


def attack_to_file(
    path: Path, name: str, model: nn.Module, x: Tensor, y: Tensor, batch_size: int, **options: Any
) -> dict[str, float]:
    """Attack x [N, ...] batch by batch; write ``adversarial`` and the true labels ``y`` to `path`.

    What they are of (attack, options, checksums of weights and images) is in the metadata of the
    file, as JSON named ``about``, and in ``attack.json`` beside it.

    Args:
        path: a .safetensors file in a folder of its own, which is made.
        name: one of `ATTACKS`.
        model, x, y: the classifier, images in [0, 1], true labels [N].
        batch_size: images at a time; they are moved to the device of the model.
        options: of the attack; those that are None are left out. ``labels``: start from the true
            labels, not the predicted ones.

    Returns:
        Accuracy before and after, in per cent, and the means of the 0-, 2- and inf-norm of the
        change over all images.

    Raises:
        ValueError: the attack has no such option, or needs one that is not given; the folder holds
            other files, or another attack (nothing in it is changed).
    """
    labels = options.pop("labels", False)
    given = {option: value for option, value in options.items() if value is not None}
    check_options(name, given)
    run = {**about(name, model, labels, given), "x": checksum([("x", x)])}
    claim(path.parent, "attack.json", run)
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    if name == "pgd":
        given["generator"] = torch.Generator(device).manual_seed(0)
    parts, right = [], torch.zeros(2)
    for start in tqdm(range(0, len(x), batch_size), desc=name, unit="batch"):
        here, true = (t[start : start + batch_size].to(device) for t in (x, y))
        moved = ATTACKS[name](model, here, true if labels else None, **given)
        with quiet(model, gradients=False):
            hits = [(look(model, at).argmax(dim=1) == true).sum() for at in (here, moved)]
        right += torch.stack(hits).cpu()
        parts.append(moved.cpu())
    adversarial = torch.cat(parts)
    tensors = {"adversarial": adversarial, "y": y.contiguous()}
    write_atomically(save(tensors, {"about": json.dumps(run)}), path)
    r = (adversarial - x).flatten(1).double()
    before, after = (100 * right / len(x)).tolist()
    figures = {"accuracy before, %": before, "accuracy after, %": after}
    sizes = {f"||r||_{p:g}, mean": float(r.norm(p, dim=1).mean()) for p in NORMS}
    return {**figures, **sizes}


def check_options(name: str, given: dict[str, Any]) -> None:
    """Check that the attack takes these options, and needs no others."""
    takes = inspect.signature(ATTACKS[name]).parameters
    for option in given:
        if option not in takes:
            raise ValueError(f"--{option} must be left out: {name} has no such option")
    for option, parameter in takes.items():
        optional = parameter.default is not inspect.Parameter.empty
        if not optional and option not in ("model", "x", *given):
            raise ValueError(f"{name} needs --{option}; got none")
