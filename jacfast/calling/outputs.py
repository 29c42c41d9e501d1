"""What may come out of a model, and which of it is meant: logits, one row per sample."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from torch import Tensor

from jacfast.checks import place

Model = Callable[..., Any]
Output = str | int | None

CUT = "(detach(), no_grad(), .data, NumPy, rounding or quantised weights in the model?)"
DENSE = (
    "pool the others (mean over positions or pixels), pick one position (outputs[:, -1]), or "
    "flatten(1) on purpose, in a function around the model"
)


def pick(returned: Any, output: Output = None) -> Tensor:
    """Return the one tensor that is meant, of whatever a model returns.

    A tensor is what is meant. Of a container, `output` says which: the key of a mapping, the index
    in a tuple or a list (negative ones count from its end), or the name of an attribute. Without
    it: what is called ``logits``, as a key or an attribute; else the only floating-point tensor
    with a dimension of samples, as in ``(logits, None)``. Of several, none is more likely than
    another (``(logits, features)``, or ``(features, logits)``), so that is an error.

    Args:
        returned: a tensor, a mapping, a tuple, a list, or an object with attributes.
        output: None, or which of its parts.

    Raises:
        TypeError: no tensor is there, or it is not floating point; output is no name and no index.
            ValueError: there is no such part, or several could be meant.
    """
    output = place("output", output)
    if isinstance(returned, Tensor):
        if output is not None:
            raise ValueError(f"output must be None for a model that returns one tensor: {output!r}")
        found: Any = returned
    else:
        found = _only(returned) if output is None else _part(returned, output)
    if not isinstance(found, Tensor):
        raise TypeError(f"model must return a tensor of logits; got {type(found).__name__}")
    if not found.dtype.is_floating_point:
        raise TypeError(f"model must return floating-point logits; got {found.dtype}")
    return found


def as_rows(outputs: Tensor, x: Tensor) -> Tensor:
    """Return outputs [N, ...] as [N, K]; [N], one number per sample, is one column.

    This is for Jacobians and penalties, to whose formulas an entry of a dense output is one more
    row. Where outputs are classes, it is `as_logits`.
    """
    if outputs.dim() == 0 or outputs.shape[0] != x.shape[0]:
        raise ValueError(
            f"model must return one row of logits per sample, [N, K] with N = {len(x)}; "
            f"got shape {list(outputs.shape)}"
        )
    return outputs.flatten(1) if outputs.dim() > 1 else outputs[:, None]


def as_logits(outputs: Tensor, x: Tensor) -> Tensor:
    """Return outputs [N], [N, K] or [N, K, 1, ...] as logits [N, K]; refuse any dense output.

    Entries of a segmentation map or a sequence are not classes of which one is predicted.
    """
    rows = as_rows(outputs, x)
    if outputs.shape[2:].numel() != 1:
        raise ValueError(
            "model must return one row of logits per sample, [N, K]; got a dense output of shape "
            f"{list(outputs.shape)}: {DENSE}"
        )
    return rows


def check_classes(logits: Tensor) -> None:
    """Check that logits [N, K] have a boundary between classes."""
    if logits.shape[1] == 1:
        raise ValueError(
            "model must return at least 2 logits per sample; got 1. Of a single logit z, whose "
            "sign decides, return torch.stack([-z, z], dim=1).flatten(1) / 2"
        )
    if logits.shape[1] < 2:
        raise ValueError(f"model must return at least 2 logits per sample; got {logits.shape[1]}")


def check_depends(yes: bool) -> None:
    """Raise the ValueError of outputs that do not depend on x, unless they do."""
    if not yes:
        raise ValueError(
            f"the model's outputs do not depend on x: no graph leads from one to the other {CUT}"
        )


def _part(returned: Any, output: str | int) -> Any:
    """Return the part of that name or index."""
    if isinstance(returned, Mapping):
        if output in returned:
            return returned[output]
    elif isinstance(returned, tuple | list) and isinstance(output, int):
        if -len(returned) <= output < len(returned):
            return returned[output]
    elif isinstance(output, str) and hasattr(returned, output):
        return getattr(returned, output)
    raise ValueError(
        f"output must be one of the model's outputs, {_words(returned)}; got {output!r}"
    )


def _only(returned: Any) -> Any:
    """Return what is called logits, or the only candidate; what is no container, as it is."""
    if isinstance(returned, Mapping):
        if "logits" in returned:
            return returned["logits"]
        parts: Iterable[Any] = returned.values()
    elif hasattr(returned, "logits"):
        return returned.logits
    elif isinstance(returned, tuple | list):
        parts = returned
    else:
        return returned
    found = [p for p in parts if isinstance(p, Tensor) and p.dim() and p.dtype.is_floating_point]
    if len(found) != 1:
        raise (ValueError if found else TypeError)(
            "model must return a tensor of logits, or output= must say which of several is meant; "
            f"got {_words(returned)}"
        )
    return found[0]


def _words(returned: Any) -> str:
    """Name the parts of a container, and the shapes of the tensors among them."""
    if isinstance(returned, Mapping):
        parts: Iterable[tuple[Any, Any]] = returned.items()
    elif isinstance(returned, tuple | list):
        parts = enumerate(returned)
    else:
        return f"the attributes of a {type(returned).__name__}"
    kind = type(returned).__name__
    shown = ", ".join(
        f"{key!r}: {list(p.shape) if isinstance(p, Tensor) else type(p).__name__}"
        for key, p in parts
    )
    return f"{kind} of {shown}" if shown else f"an empty {kind}"
