"""The rules that penalties share: of their options, and of logits and the x that they are of."""

from typing import Literal, get_args

import torch
from torch import Tensor

from jacfast.checks import count
from jacfast.graph import Graph, coupling, has_running_statistics
from jacfast.ops import checks

Coupled = Literal["refuse", "coupled"]  # what to do about batch statistics, once logits are there
Count = int | Literal["exact"]


def check_count(n: Count) -> Count:
    """Check a number of projections as far as it can be without the logits: >= 1, or "exact"."""
    if isinstance(n, str) and n == "exact":
        return "exact"
    return count("n", n, other=", or 'exact'")


def check_projections(n: int | str, limit: int, most: str) -> None:
    """Check a number of projections: 1 .. limit, or "exact"."""
    if n != "exact" and int(n) > limit:
        raise ValueError(f"n must be in 1 .. {most} = {limit}, or 'exact'; got {n}")


def check_batch_norm(batch_norm: str) -> None:
    """Check what is to be done about batch statistics once the logits are there."""
    if not isinstance(batch_norm, str) or batch_norm not in get_args(Coupled):
        raise ValueError(
            "batch_norm must be 'refuse' or 'coupled' for logits that are there already ('frozen' "
            f"takes a forward pass of its own: use forward_with_penalty); got {batch_norm!r}"
        )


def check_graph(logits: Tensor, x: Tensor) -> Tensor:
    """Check that `logits` can have been computed from `x`; return them as [N, K]."""
    checks.floating("logits", logits)
    checks.floating("x", x)
    if torch._C._are_functorch_transforms_active():
        raise RuntimeError(
            "the penalty calls torch.autograd.grad, which torch.func transforms do not see; "
            "call it outside torch.func.grad/vjp/vmap/jvp"
        )
    if logits.dim() < 1:
        raise ValueError("logits must have shape [N, ...], a row per sample; got a single number")
    if x.dim() < 1 or len(x) != len(logits):
        raise ValueError(
            f"x must have one entry per row of logits ({len(logits)}); got shape {list(x.shape)}"
        )
    logits = logits.flatten(1) if logits.dim() > 1 else logits[:, None]
    if logits.numel() == 0 or x.numel() == 0:
        raise ValueError(
            f"logits and x must not be empty; got {list(logits.shape)} and {list(x.shape)}"
        )
    if not x.requires_grad:
        raise ValueError(
            "x must require grad before the model is called (x.requires_grad_()); "
            "got requires_grad=False"
        )
    if not logits.requires_grad:
        raise ValueError(
            "logits must be part of a graph (computed from x with gradients enabled); "
            "got requires_grad=False"
        )
    return logits


def check_apart(graph: Graph, x: Tensor, ways: bool = True) -> None:
    """Refuse logits of a sample that depend on the other samples through batch statistics.

    Args:
        graph: from the logits to x.
        ways: whether the caller has a `batch_norm` to choose, and does not choose the mode itself.
    """
    found = list(coupling(graph, x))
    if not found:
        return
    if all(has_running_statistics(node) for node in found):
        where = "in training mode"
        instead = "put the batch-norm layers in eval mode (module.eval())"
        if ways:
            frozen = "forward_with_penalty(..., batch_norm='frozen')"
            instead += f", call {frozen} if they are layers of torch.nn"
    else:
        where = "without running statistics (track_running_stats=False?)"
        instead = "it is so in eval mode as well, and there is nothing to freeze: "
        instead += "take another normalisation"
    if ways:
        instead += (
            ", or differentiate the coupled batch as it is, batch_norm='coupled' (as the "
            "JacobianReg of Hoffman et al. does)"
        )
    raise RuntimeError(
        f"the model has batch-norm {where}, which makes each sample's logits depend on the whole "
        f"batch: its Jacobian is not a sample's; {instead}"
    )
