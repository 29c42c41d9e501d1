"""DeepFool over a data set: results on disk as they come, resumable."""

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor, nn
from tqdm import tqdm

from jacfast.attacks.deepfool import deepfool
from jacfast.attacks.result import DeepFoolResult
from jacfast.files import claim, write_atomically
from jacfast.version import __version__

Batches = Iterable[Tensor | tuple[Tensor, ...] | list[Tensor]]


def deepfool_to_disk(
    out: Path | str, model: nn.Module, batches: Batches, *, labels: bool = False, **options
) -> DeepFoolResult:
    """Attack batch after batch, write each result at once, and go on where a killed run stopped.

    ``out/000000.safetensors``, ``000001.safetensors``, … hold one `DeepFoolResult` each, written
    in one move; ``out/attack.json`` says what the run is of (the options, the weights' checksum).
    Called again with the same arguments, it reads what is there and computes the rest: nothing is
    lost, nothing done twice. The option ``batch_size``, samples at a time within a batch, is no
    part of that: after running out of memory it goes on with a smaller one.

    Args:
        out: the folder; made if it is not there.
        model: the classifier; batches are moved to the device of its parameters.
        batches: a DataLoader, or any iterable of x or (x, y, …), in the same order every time
            (``shuffle=False``).
        labels: start from the given labels y; else from the predicted class.
        options: passed on to `deepfool`.

    Returns:
        The joined result of all batches, on the CPU: it must fit in memory. The files of a run that
        does not are all there, and `DeepFoolResult.load` reads them one by one.

    Raises:
        ValueError: `out` belongs to a run with other options, weights or batches (nothing in it is
            changed), labels are asked for and not given, or there is no batch.
    """
    out = Path(out)
    claim(out, "attack.json", about("deepfool", model, labels, options))
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    parts = []
    for number, batch in enumerate(tqdm(batches, desc="deepfool", unit="batch")):
        x, *rest = batch if isinstance(batch, (tuple, list)) else (batch,)
        if labels and not rest:
            raise ValueError(f"labels=True needs batches of (x, y); batch {number} has x only")
        path, images = out / f"{number:06}.safetensors", checksum([("x", x)])
        if not path.exists():
            y = rest[0].to(device) if labels else None
            found = deepfool(model, x.to(device), y, **options)
            write_atomically(_serialised(found, images), path)
        parts.append(_read(path, images))
    if not parts:
        raise ValueError("batches must yield at least one batch; got none")
    return DeepFoolResult.cat(parts)


def about(name: str, model: nn.Module, labels: bool, options: dict[str, Any]) -> dict[str, Any]:
    """Return what the results of the attack `name` depend on beside the images, for JSON."""
    means = ("batch_size", "progress")
    return {
        "attack": name,
        "jacfast": __version__,
        "labels": labels,
        "model": checksum(model.state_dict().items()),
        "options": {key: _plain(options[key]) for key in sorted(options) if key not in means},
    }


def _serialised(found: DeepFoolResult, images: str) -> bytes:
    tensors = {name: value.cpu().contiguous() for name, value in found.tensors().items()}
    return save(tensors, metadata={**found.about(), "x": images})


def _read(path: Path, images: str) -> DeepFoolResult:
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        then = (file.metadata() or {}).get("x")
    if then != images:
        raise ValueError(
            f"batches must come in the same order as before: {path} is of other images "
            "(shuffle=False, and the same batch size)"
        )
    return DeepFoolResult.load(path)


def _plain(value: Any) -> Any:
    return (
        checksum([("tensor", value)])
        if isinstance(value, Tensor)
        else json.loads(json.dumps(value))
    )


def checksum(tensors: Iterable[tuple[str, Tensor]]) -> str:
    """Return a checksum of tensors: names, dtypes, shapes and bytes."""
    digest = hashlib.sha256()
    for name, tensor in tensors:
        plain = tensor.detach().cpu().contiguous()
        digest.update(f"{name} {plain.dtype} {list(plain.shape)}".encode())
        digest.update(plain.flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:32]
