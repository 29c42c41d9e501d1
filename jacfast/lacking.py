"""What PyTorch has no second derivative of: in words, once that is asked for."""

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from jacfast.fused_attention import is_fused
from jacfast.graph import Graph, is_nested, leaf_of, nodes

MISSING = "torch::autograd::NotImplemented"
LATE = {  # which raise when they run
    "CdistBackwardBackward0": "cdist",
    "PdistBackwardBackward0": "pdist",
    "StandardGammaGradBackward0": "a sample of the gamma distribution",
    "CudnnRnnBackwardBackward0": "cuDNN's recurrent layers",
}
WAYS = {  # by what PyTorch's error, or ours, has in it
    "attention": (
        "in a checkpoint, with dropout inside the kernel or compiled, attention needs its backend "
        "with a second derivative: call the model, and backward, under "
        "torch.nn.attention.sdpa_kernel(SDPBackend.MATH), or use forward_with_penalty, which does "
        "so"
    ),
    "cdist": "for p = 2 torch.cdist has one with compute_mode='use_mm_for_euclid_dist'",
    "cudnn": "call the model under torch.backends.cudnn.flags(enabled=False)",
    "nested": (
        "of nested tensors there are few: inside the model pad them, nested.to_padded_tensor(0), "
        "and mask what is padded"
    ),
}


def explain_new(graph: Graph, g: Tensor) -> None:
    """`explain` for a gradient through `graph`, where its operations are not all known to have one.

    A walk through a graph of many small layers is a part of what a step costs. Whether fused
    attention has one depends on its arguments.
    """
    kinds = frozenset(graph.named)
    if kinds in _differentiable or explain(g):
        return
    if not any(is_fused(some[0]) for some in graph.named.values()):
        _differentiable.add(kinds)


_differentiable: set[frozenset[str]] = set()  # names of operations that are in one graph


def explain(g: Tensor) -> bool:
    """Let what has no second derivative say so in words, once asked for; say if there is any."""
    found = nested = False
    for node in nodes(g):
        nested = nested or is_nested(node)
        if node.name() in LATE:
            found = True
            missing = RuntimeError(f"a second derivative of {LATE[node.name()]} is not implemented")
            node.register_prehook(_raising(in_words(missing)))
        elif node.name() == MISSING:
            found = True
            try:  # it does nothing else than to raise an error, which names the operation
                node(*[torch.empty(0, device="cpu")] * len(node._input_metadata))  # type: ignore[operator, attr-defined]
            except RuntimeError as error:
                node.register_prehook(_raising(in_words(error)))
    return found or (nested and _fails(g))


def _fails(g: Tensor) -> bool:
    """Differentiate once to see whether PyTorch can: no node tells for nested tensors."""
    leaves = [leaf for node in nodes(g) if (leaf := leaf_of(node)) is not None]
    try:
        torch.autograd.grad(g, leaves, torch.ones_like(g), retain_graph=True, allow_unused=True)
    except RuntimeError as error:
        if g.grad_fn is not None and _lacks(error):
            g.grad_fn.register_prehook(_raising(in_words(error)))
        return True
    return False


@contextlib.contextmanager
def explained() -> Iterator[None]:
    """Raise in words what PyTorch says of a second derivative that is missing."""
    try:
        yield
    except RuntimeError as error:
        if not _lacks(error):
            raise
        raise in_words(error) from error


def _lacks(error: RuntimeError) -> bool:
    return "is not implemented" in str(error) or "nested" in str(error).lower()


def in_words(error: RuntimeError) -> RuntimeError:
    """Return an error of PyTorch's about a missing second derivative, in words."""
    first = str(error).split(". ")[0].rstrip(".")  # a list of all backends may follow
    way = "".join(f" ({words})" for name, words in WAYS.items() if name in first.lower())
    return RuntimeError(
        f"{first}: the penalty needs second derivatives of every operation, and PyTorch has none "
        f"of this one{way}"
    )


def _raising(error: RuntimeError) -> Any:
    def hook(gradients: Any) -> None:
        raise error

    return hook
