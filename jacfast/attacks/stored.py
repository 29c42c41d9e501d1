"""Results of a long run on disk, batch by batch: each made once, for one model and one batch."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from jacfast.calling import Model
from jacfast.files import damage, tensor_file, write_atomically
from jacfast.runs import behaviour, check_does, checksum

Tensors = dict[str, Tensor]


def once(
    path: Path,
    model: Model,
    x: Tensor,
    y: Tensor | None,
    make: Callable[[], tuple[Tensors, dict]],
    chunk: int | None = None,
    **call: Any,
) -> Tensors:
    """Return what an earlier call wrote to `path`, or `make` it and write it there.

    Beside what is made the file holds the checksum of the batch, and what the model does with it.

    Args:
        model, x, y: what the results are of, x on the device of the model.
        make: returns tensors, and metadata for the file.
        chunk: samples at a time.
        call: how the model is called: its args and kwargs, and which output.

    Raises:
        ValueError: the file is damaged, or of another batch, or of a model that did something else.
    """
    batch = checksum([("x", x)] if y is None else [("x", x), ("y", y)])
    if path.exists():
        then, about = read(path)
        if about.get("batch") != batch:
            raise ValueError(
                f"batches must come in the same order as before: {path} is of other images or "
                "labels (shuffle=False, and the same batch size)"
            )
        check_does(str(path), then, model, x, chunk, **call)
        return then
    made, about = make()
    tensors = {name: value.cpu().contiguous() for name, value in made.items()}
    tensors |= behaviour(model, x, chunk, **call)
    write_atomically(tensor_file(tensors, {**about, "batch": batch}), path)
    return tensors


def read(path: Path) -> tuple[Tensors, dict[str, str]]:
    """Return the tensors of a file, and what it says of itself."""
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(
            f"{path} cannot be read, {damage(path, error)}: remove it, and it is made again"
        ) from error
