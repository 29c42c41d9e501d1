"""What makes two calls the same run: checksums of what is given, and what the model does."""

import hashlib
import json
from collections.abc import Container, Iterable, Mapping
from typing import Any, Unpack

import torch
from torch import Tensor, nn

from jacfast.calling import (
    AnyModel,
    Further,
    Model,
    apart,
    device_of,
    in_pieces,
    largest,
    logits_of,
    quiet,
    takes_model,
    tree,
)
from jacfast.calling.seeds import at_seed
from jacfast.vjp import pull_back

CHUNK = 128
ROUNDINGS = 1024  # epsilons by which logits may differ between machines and numbers of threads
TURN = 0.1  # the same for a gradient, in which single units may flip, relative to its length


@takes_model
def behaviour(
    model: AnyModel, x: Tensor, chunk: int | None = None, **further: Unpack[Further]
) -> dict[str, Tensor]:
    """Return what `model` does at x [N, ...]: what a checksum of its weights cannot see.

    ``logits`` [N, K], and ``slope`` [1, D], the gradient of a fixed mixture of them for the first
    sample: another activation function changes the one, another backward pass the other. The model
    sees `chunk` samples at a time, 128 by default, which go to its device.
    """
    alone, device = model.rows(slice(1)), device_of(model)
    with quiet(alone), torch.enable_grad():
        leaf = x[:1].to(device).requires_grad_()
        first = logits_of(alone, leaf)
        mix = torch.arange(first.shape[1], device=first.device).cos().to(first)
        slope = pull_back(first, leaf, mix[None, None], create_graph=False)[0]
    with quiet(model, gradients=False), torch.no_grad():
        size, found = chunk or CHUNK, []
        for part in (slice(start, start + size) for start in range(0, len(x), size)):
            found.append(logits_of(model.rows(part), x[part].to(device)).cpu())
    return {"logits": torch.cat(found), "slope": slope.cpu()}


def check_does(
    place: str,
    then: Mapping[str, Tensor],
    model: Model,
    x: Tensor,
    chunk: int | None = None,
    only: Container[str] = ("logits", "slope"),
    **further: Unpack[Further],
) -> None:
    """Refuse what an earlier call wrote to `place` for a model that did something else at x.

    A model that draws does something else each time: of it nothing is compared.

    Raises:
        ValueError: as `check_behaviour`.
    """
    with at_seed(device_of(model)) as drawn:
        now = behaviour(model, x, chunk, **further)
        if not drawn():
            check_behaviour(place, then, {k: v for k, v in now.items() if k in only})


def check_behaviour(place: str, then: Mapping[str, Tensor], now: Mapping[str, Tensor]) -> None:
    """Refuse what an earlier call wrote to `place` for a model that did something else.

    Machines, and numbers of threads, round differently: logits may differ by 1024 epsilons of the
    larger of a sample's largest logit and the batch's mean one.

    Raises:
        ValueError: the logits or the slope differ by more.
    """
    for name, far in (("logits", _logits_differ), ("slope", _slopes_differ)):
        if name in now and (name not in then or far(then[name], now[name])):
            raise ValueError(
                f"{place} belongs to another run: the model's {name} at the same inputs were "
                "others; use the same model (in the same precision), or another folder"
            )


def _logits_differ(then: Tensor, now: Tensor) -> bool:
    if then.shape != now.shape or then.dtype != now.dtype:
        return True
    size = largest(then)
    most = ROUNDINGS * torch.finfo(now.dtype).eps * torch.maximum(size, size.mean())
    return bool((apart(then, now).flatten(1).amax(dim=1) > most).any())


def _slopes_differ(then: Tensor, now: Tensor) -> bool:
    a, b = then.double(), now.double()
    if not torch.equal(a.isfinite(), b.isfinite()):  # of other shapes they are not
        return True
    return bool((a - b).nan_to_num().norm() > TURN * a.nan_to_num().norm())


def checksum(tensors: Iterable[tuple[str, Any]]) -> str:
    """Return a checksum of tensors: names, dtypes, shapes and bytes.

    Of what else a state_dict may hold (packed weights, extra state), the tensors in it and the
    words it is written with.
    """
    digest = hashlib.sha256()
    for name, value in tensors:
        _update(digest, name, value)
    return digest.hexdigest()[:32]


def _update(digest: Any, name: str, value: Any) -> None:
    if isinstance(value, Tensor) and value.is_quantized:
        _update(digest, f"{name} {value.qscheme()}", value.dequantize())
    elif isinstance(value, Tensor):
        plain = value.detach().cpu()
        plain = (plain if plain.layout == torch.strided else plain.to_dense()).contiguous()
        digest.update(f"{name} {plain.dtype} {list(plain.shape)}".encode())
        digest.update(plain.resolve_conj().flatten().view(torch.uint8).numpy().tobytes())
    elif isinstance(value, Mapping):
        for key, part in value.items():
            _update(digest, f"{name}.{key}", part)
    elif isinstance(value, tuple | list):
        for number, part in enumerate(value):
            _update(digest, f"{name}.{number}", part)
    else:
        digest.update(f"{name} {value!r}".encode())


def checksum_of(model: Model) -> str | None:
    """Return the checksum of a model's weights; None of a function, which has none to show.

    Raises:
        TypeError: they are in pieces, one in each process.
    """
    found = in_pieces(model, tree(model)) if isinstance(model, nn.Module) else None
    if found:
        raise TypeError(
            "model must have whole parameters for its work to be shared among processes: each has "
            f"a copy, and calls it as often as its own batches need; {found}"
        )
    return checksum(model.state_dict().items()) if isinstance(model, nn.Module) else None


def plain(name: str, value: Any) -> Any:
    """Return an option as JSON has it: tensors by checksum, numbers of NumPy as Python's own.

    Raises:
        TypeError: it cannot be written down.
    """
    if isinstance(value, Tensor):
        return checksum([("tensor", value)])
    if hasattr(value, "tolist"):  # NumPy's arrays and numbers
        value = value.tolist()
    if isinstance(value, Mapping):
        return {str(key): plain(name, part) for key, part in value.items()}
    if isinstance(value, tuple | list):
        return [plain(name, part) for part in value]
    try:
        return json.loads(json.dumps(value))
    except TypeError as error:
        raise TypeError(
            f"{name} must be a number, a tensor, a string or None; got {type(value).__name__}"
        ) from error
