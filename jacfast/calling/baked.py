"""Layers whose outputs depend on the mode, and programs in which the mode is a constant."""

import torch
from torch import nn

MODAL = (nn.modules.dropout._DropoutNd, nn.modules.batchnorm._NormBase)
NAMES = ("batch_norm", "dropout")
FIRST = 6  # arguments of theirs, among which is the one that says training


def trained(module: nn.Module) -> str | None:
    """Name a layer that a traced or exported program runs in training mode, whatever its flag."""
    calls: list[tuple[str, list]] = []
    if isinstance(module, torch.fx.GraphModule):
        calls = [(str(n.target), list(n.args)) for n in module.graph.nodes]
    elif isinstance(module, torch.jit.TopLevelTracedModule):
        program = module.inlined_graph.nodes()
        named = [n for n in program if any(name in n.kind() for name in NAMES)]
        calls = [(n.kind(), [value.toIValue() for value in n.inputs()]) for n in named]
    for target, arguments in calls:
        for name in NAMES:
            if name in target and any(value is True for value in arguments[:FIRST]):
                return name
    return None
