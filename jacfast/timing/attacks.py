"""DeepFool against another toolbox's: the same images and choices, verified, then timed."""

import importlib.util
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from jacfast.attacks.deepfool import deepfool
from jacfast.calling import in_eval_mode
from jacfast.memory import ran_out
from jacfast.timing.task import Task
from jacfast.timing.toolboxes import FOOLBOX, Peer, call
from jacfast.timing.turns import take_turns

REPEATS = 3  # of ours, where the peer's one timing takes long
STEPS = 100  # plain steps that an attack costs, for a first guess


def against(model: nn.Module, x: Tensor, y: Tensor, peer: Peer) -> dict[str, dict[str, Any]]:
    """Verify that the attacks agree with the peer's choices; time them, and ours without a box.

    Returns:
        By contender (``"same choices"``, ``"no box"`` and the peer's package): seconds, the mean
        norm of what is returned, of those not fooled, too, as both must have done the same, and the
        share fooled; of ours vector-Jacobian products, and how many times as fast it is.

    Raises:
        RuntimeError: the mean norms are more than 1% apart, or ours fools fewer samples.
    """
    with torch.no_grad():
        logits = model(x)
    y = logits.argmax(dim=1) if peer.predicted else y
    attack = peer.make(model, x, logits.shape[1])
    default = {"candidates": peer.choices["candidates"]}
    ours: dict[str, Callable[[], Any]] = {
        "same choices": lambda: deepfool(model, x, y, **peer.choices),
        "no box": lambda: deepfool(model, x, y, **default),
    }
    found, theirs = {name: run() for name, run in ours.items()}, list[Tensor]()
    rival = {peer.package: lambda: theirs.append(call(attack, x, y))}
    if peer.repeats:
        times = take_turns(ours | rival, peer.repeats)
    else:
        times = take_turns(ours, REPEATS)
        call(attack, x[:2], y[:2])
        times |= take_turns(rival, 1, warm=False)
    with torch.no_grad():
        looks = theirs[-1].split(peer.at_once or len(x))
        fooled = torch.cat([model(look) for look in looks]).argmax(dim=1) != y
    norm = (theirs[-1] - x).flatten(1).norm(dim=1)
    rows: dict[str, dict[str, Any]] = {
        peer.package: {"mean_norm": float(norm.mean()), "fooled": float(fooled.float().mean())}
    }
    for name, result in found.items():
        rows[name] = {
            "mean_norm": float(result.norm.mean()),
            "fooled": float(result.success.float().mean()),
            "vjps": float(result.vjps.double().mean()),
            "ratio": times[peer.package]["median"] / times[name]["median"],
        }
    agree(rows["same choices"], rows[peer.package])
    return {name: row | {"seconds": times[name]} for name, row in rows.items()}


def agree(ours: dict, theirs: dict) -> None:
    """Raise where mean ||r|| is more than 1% apart, or NaN, or ours fools fewer samples."""
    apart = abs(ours["mean_norm"] / theirs["mean_norm"] - 1)
    if not (apart <= 0.01 and ours["fooled"] >= theirs["fooled"]):
        raise RuntimeError(f"the attacks must agree; jacfast: {ours}, peer: {theirs}")


def against_foolbox(task: Task, plain: float, seconds: float) -> dict[str, Any]:
    """Return ``images`` and ``rows`` of `against`, or ``why`` not, in words.

    On as many images as are likely to take `seconds`, in eval mode, from the predicted classes.

    Args:
        plain: seconds of a plain step.
    """
    if importlib.util.find_spec("foolbox") is None:
        return {"why": "foolbox is not installed"}
    low, high = float(task.x.min()), float(task.x.max())
    if low < 0 or high > 1:
        return {"why": f"x must lie in [0, 1], foolbox's box; got {low:.3g} .. {high:.3g}"}
    few = len(task.x)
    if task.arguments.follow:
        return {"why": "the model's further arguments belong to the samples: foolbox has none"}
    if plain > 0:
        few = min(few, max(2, int(few * seconds / (STEPS * plain))))
    x = task.x[:few].clone()
    try:
        with in_eval_mode(task.called.modules()):
            with torch.no_grad():
                y = task.called(x).argmax(dim=1)
            return {"images": few, "rows": against(task.called, x, y, FOOLBOX)}
    except Exception as error:  # of the toolbox, or because the attacks disagree
        lack = "out of memory; " if ran_out(error) else ""
        return {"why": f"{lack}{type(error).__name__}: {error}"}
