"""DeepFool over a data set: results on disk as they come, resumable."""

import functools
import inspect
import numbers
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from jacfast import checks
from jacfast.attacks.deepfool import deepfool
from jacfast.attacks.deepfool_result import DeepFoolResult
from jacfast.attacks.stored import once
from jacfast.calling import Model, check_weights, device_of
from jacfast.data.batches import split_batch
from jacfast.runs import checksum_of, plain
from jacfast.team import shared
from jacfast.version import __version__

NOTE = "attack.json"
CALL = ("args", "kwargs", "output")  # options that say how the model is called
MEANS = ("batch_size", "generator", "output", "progress")  # not noted: logits show the output


def deepfool_to_disk(
    out: Path | str, model: Model, batches: Iterable[Any], *, labels: bool = False, **options: Any
) -> DeepFoolResult:
    """Attack batch after batch, write each result at once, and go on where a killed run stopped.

    ``out/000000.safetensors``, ``000001.safetensors``, … hold one `DeepFoolResult` each, written
    in one move; ``out/attack.json`` says what the run is of (the options, the weights' checksum).
    Called again with the same arguments, it reads what is there and computes the rest: nothing is
    lost, nothing done twice. Each file also holds the model's logits at the batch, ``logits``, and
    a gradient: a model of the same weights that does something else is another run. Two runs at
    once in one folder are refused; a killed one is not in the way. The option ``batch_size``,
    samples at a time within a batch, is no part of that: after running out of memory it goes on
    with a smaller one.

    Under ``torchrun``, or in an initialised group of torch.distributed, the processes share the
    batches: whoever is free takes the next one. Each calls this with the same arguments, but for
    the device of its model, and gets the whole result; the files are the same as one process's.

    Args:
        out: the folder; made if it is not there.
        model: the classifier; batches are moved to the device of its parameters.
        batches: a DataLoader, or any iterable of x, (x, y, …) or mappings of x and y (``image`` and
            ``label``, ``pixel_values`` and ``labels``, …), of tensors or NumPy arrays, in the same
            order every time (``shuffle=False``).
        labels: start from the given labels y; else from the predicted class.
        options: passed on to `deepfool`; ``target`` may be one class for all.

    Returns:
        The joined result of all batches, on the CPU: it must fit in memory. The files of a run that
        does not are all there, and `DeepFoolResult.load` reads them one by one.

    Raises:
        ValueError: `out` belongs to a run with other options, another model or other batches
            (nothing in it is changed), or another run is at work in it; a weight is not finite;
            labels are asked for and not given, or there is no batch; the processes are not given
            the same, or do not see the same folder. TypeError: a batch or an option is of another
            type. ConnectionAbortedError: another process has stopped. TimeoutError: there was no
            sign of the others for half an hour.
    """
    labels = checks.flag("labels", labels)
    files = deepfool_files(checks.path("out", out), model, batches, labels, options)
    return DeepFoolResult.cat([DeepFoolResult.load(file) for file in files])


def deepfool_files(
    out: Path, model: Model, batches: Iterable[Any], labels: bool, options: dict[str, Any]
) -> list[Path]:
    """Do the work of `deepfool_to_disk`; return its files, in order."""
    check_weights(model)
    device, call = device_of(model), {name: options[name] for name in CALL if name in options}
    reach = options.get("target")
    run = about(deepfool, model, labels, options)
    with shared(out, NOTE, run) as team:
        for number, batch in team.share(batches, desc="deepfool", unit="batch"):
            x, y = split_batch(batch, number, labels)
            x, y = x.to(device), None if y is None else y.to(device)
            options["target"] = of_all(reach, x)
            made = functools.partial(_made, model, x, y, options)
            once(_file(out, number), model, x, y, made, options.get("batch_size"), **call)
        if not team.count:
            raise ValueError("batches must yield at least one batch; got none")
    return [_file(out, number) for number in range(team.count)]


def _file(out: Path, number: int) -> Path:
    return out / f"{number:06}.safetensors"


def _made(model: Model, x: Tensor, y: Tensor | None, options: dict[str, Any]) -> tuple[dict, dict]:
    found = deepfool(model, x, y, **options)
    return found.tensors(), found.about()


def of_all(label: Any, x: Tensor) -> Any:
    """Return a label of all samples of x as a tensor [N]; others as they are."""
    if isinstance(label, numbers.Integral) and not isinstance(label, bool):
        return torch.full((len(x),), int(label), device=x.device)
    return label


def about(attack: Callable, model: Model, labels: bool, options: dict[str, Any]) -> dict[str, Any]:
    """Return what the results of an attack depend on beside the images, for JSON.

    Of the options also those left at their defaults; of the model its weights: what it does with
    them each batch's file says.
    """
    all_of = {**defaults(attack), **options}
    noted = [key for key in sorted(all_of) if key not in MEANS and not _empty(all_of[key])]
    return {
        "attack": attack.__name__,
        "jacfast": __version__,
        "labels": labels,
        "model": checksum_of(model),
        "options": {key: plain(key, all_of[key]) for key in noted},
    }


def defaults(attack: Callable) -> dict[str, Any]:
    """Return the keyword arguments that an attack fills in by itself."""
    parameters = inspect.signature(attack).parameters.items()
    kinds = (inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.empty)
    return {n: p.default for n, p in parameters if p.kind is kinds[0] and p.default is not kinds[1]}


def _empty(value: Any) -> bool:
    return value is None or (isinstance(value, tuple | list | dict) and not value)
