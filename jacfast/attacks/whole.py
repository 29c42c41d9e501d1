"""An attack over many images, for the command line: figures, and one file."""

import dataclasses
import functools
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from jacfast.attacks.carlini_wagner import carlini_wagner
from jacfast.attacks.ddn import ddn
from jacfast.attacks.fgsm import fgsm
from jacfast.attacks.fmn import fmn
from jacfast.attacks.gradient import told_once
from jacfast.attacks.jsma import jsma
from jacfast.attacks.minimal_norm import minimal_norm
from jacfast.attacks.pgd import bim, pgd
from jacfast.attacks.stored import Tensors, once, read
from jacfast.attacks.stream import NOTE, about, of_all
from jacfast.calling import (
    check_finite,
    check_weights,
    classes_of,
    device_of,
    logits_of,
    quiet,
    sane,
    say_bad_logits,
)
from jacfast.files import tensor_file, write_atomically
from jacfast.runs import check_does, checksum
from jacfast.team import Team, shared

ATTACKS: dict[str, Callable[..., Tensor]] = {
    "bim": bim,
    "carlini_wagner": carlini_wagner,
    "ddn": ddn,
    "fgsm": fgsm,
    "fmn": fmn,
    "jsma": jsma,
    "minimal_norm": minimal_norm,
    "pgd": pgd,
}
NORMS = (0, 1, 2, float("inf"))
PARTS, KEYS = "parts", ("adversarial", "y", "logits")


def attack_to_file(
    path: Path, name: str, model: nn.Module, x: Tensor, y: Tensor, batch_size: int, **options: Any
) -> dict[str, float]:
    """Attack x [N, ...] batch by batch; write ``adversarial`` and the true labels ``y`` to `path`.

    What they are of (attack, options, checksums of weights and images) is in the metadata of the
    file, as JSON named ``about``, and in ``attack.json`` beside it; its ``logits`` are those of x.
    Meanwhile each batch has a file in the folder ``parts``: the same call goes on after a kill,
    after running out of memory with a smaller `batch_size`, and reads a file that is finished.

    Args:
        path: a .safetensors file in a folder of its own, which is made.
        name: one of `ATTACKS`.
        model, x, y: the classifier, images in [0, 1], true labels [N].
        batch_size: images at a time; they are moved to the device of the model.
        options: of the attack; ``target`` may be one class for all. ``labels``: start from the true
            labels, not the predicted ones.

    Returns:
        In the first process, of several that share the job; the others return nothing in it:
        accuracy before and after, in per cent; how many of the images that were of the class to
        leave (or not of the target) are fooled, in per cent; and over these, the means of the 0-,
        2- and inf-norm of the change (NaN if there are none).

    Raises:
        ValueError: a weight or an image is not finite; the folder holds other files, or another
            attack (nothing in it is changed).
    """
    labels = options.pop("labels", False)
    check_weights(model)
    check_finite("x", x)
    sums = {"x": checksum([("x", x)]), "y": checksum([("y", y)])}
    run = {**about(ATTACKS[name], model, labels, options), **sums}
    job = _Job(name, model, x, y, batch_size, labels, options)
    with shared(path.parent, NOTE, run) as team:
        there = team.told(path.exists)
        files = [] if there else job.run(path.parent / PARTS, team)
        if team.rank > 0:
            return {}
        if there:
            found = read(path)[0]
            check_does(str(path), found, model, x, batch_size, only=("logits",))
        else:
            parts = [read(file)[0] for file in files]
            found = {key: torch.cat([each[key] for each in parts]) for key in KEYS}
            write_atomically(tensor_file(found, {"about": json.dumps(run)}), path)
        shutil.rmtree(path.parent / PARTS, ignore_errors=True)
        return job.figures(found)


@dataclasses.dataclass(frozen=True)
class _Job:
    name: str
    model: nn.Module
    x: Tensor
    y: Tensor
    batch_size: int
    labels: bool
    options: dict[str, Any]

    def run(self, folder: Path, team: Team) -> list[Path]:
        """Attack what no file is of yet; files are named by the index of their first image."""
        device = device_of(self.model)
        plan = team.told(lambda: self._plan(folder))
        with told_once():
            for _, (file, start, size) in team.share(plan, desc=self.name, unit="batch"):
                x, y = (t[start : start + size].to(device) for t in (self.x, self.y))
                make = functools.partial(self._attack, x, y, start)
                once(folder / file, self.model, x, y, make, self.batch_size)
        return [folder / file for file, _, _ in plan]

    def _plan(self, folder: Path) -> list[tuple[str, int, int]]:
        """Return name, first image and size of each file: those that are there keep their size."""
        folder.mkdir(exist_ok=True)
        start, plan = 0, []
        while start < len(self.x):
            name = f"{start:08}.safetensors"
            there = (folder / name).exists()
            size = len(read(folder / name)[0]["y"]) if there else self.batch_size
            plan.append((name, start, size))
            start += size
        return plan

    def _attack(self, x: Tensor, y: Tensor, start: int) -> tuple[Tensors, dict]:
        options = {
            name: of_all(value, x) if name == "target" else value
            for name, value in self.options.items()
        }
        if self.name == "pgd":
            options["generator"] = torch.Generator(x.device).manual_seed(start)
        moved = ATTACKS[self.name](self.model, x, y if self.labels else None, **options)
        return {"adversarial": moved, "y": y}, {}

    def figures(self, found: Tensors) -> dict[str, float]:
        device, y, after = device_of(self.model), self.y.cpu(), []
        with quiet(self.model, gradients=False), torch.no_grad():
            for moved in found["adversarial"].split(self.batch_size):
                after.append(logits_of(self.model, moved.to(device)).cpu())
        say_bad_logits(self.model, self.x.cpu(), found["logits"])
        logits = torch.cat(after)
        then, now = classes_of(found["logits"]), classes_of(logits)
        target = self.options.get("target")
        if target is None:
            reached, left = now != then, then == y if self.labels else torch.ones_like(y).bool()
        else:
            reached, left = now == target, then != target
        reached &= sane(logits)  # as an AttackResult has it
        r = (found["adversarial"] - self.x.cpu()).flatten(1).double()[reached & left]
        shares = {"accuracy before, %": then == y, "accuracy after, %": now == y}
        shares["fooled, %"] = reached[left]
        figures = {name: 100 * float(share.double().mean()) for name, share in shares.items()}
        sizes = {f"||r||_{p:g}, mean of fooled": r.norm(p, dim=1).mean() for p in NORMS}
        return figures | {name: float(size) for name, size in sizes.items()}
