"""The modules of a model, found quickly: a step asks several times."""

from torch import nn


def tree(model: nn.Module) -> list[nn.Module]:
    """Return what ``model.modules()`` yields, in its order, in a fraction of the time."""
    found: dict[int, nn.Module] = {}
    todo: list[nn.Module | None] = [model]
    while todo:
        module = todo.pop()
        if module is not None and id(module) not in found:
            found[id(module)] = module
            todo.extend(reversed(module._modules.values()))
    return list(found.values())
