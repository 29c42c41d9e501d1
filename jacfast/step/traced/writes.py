"""What operations write to, by their schemas."""

from collections.abc import Iterator
from typing import Any

from jacfast.step.traced.graph import Graph, Value, values

STATISTICS = ("running_mean", "running_var")


def aliased(function: Any, args: tuple, kwargs: dict[str, Any]) -> tuple[list[Any], list[Any]]:
    """Return the arguments that an operation writes to, and those of which it returns views.

    That batch-norm writes to running statistics its schema does not tell.
    """
    arguments, name = function._schema.arguments, function.overloadpacket.__name__
    given = dict(zip((one.name for one in arguments), args, strict=False)) | kwargs
    silent = "batch_norm" in name and "backward" not in name and given.get("training", True)
    written, viewed = [], []
    for one in arguments:
        told = one.alias_info is not None
        if (told and one.alias_info.is_write) or (silent and one.name in STATISTICS):
            written.append(given.get(one.name))
        elif told:
            viewed.append(given.get(one.name))
    return written, viewed


def with_aliases(func: Any, args: tuple, kwargs: dict[str, Any]) -> Iterator[tuple[Any, Any]]:
    """Yield what the schema says of each argument's memory (a write, a view), and the argument."""
    for place, argument in enumerate(func._schema.arguments):
        value = args[place] if place < len(args) else kwargs.get(argument.name)
        yield argument.alias_info, value


def written(graph: Graph) -> list[int]:
    """Return the places of the inputs that a graph writes to, itself or by views of them."""
    source, found = dict[Value, Value](), set[Value]()
    for call in graph.calls:
        changed, viewed = aliased(call.function, call.args, call.kwargs)
        found |= {source.get(value, value) for value in values(changed)}
        for value in values(viewed):
            source.update(dict.fromkeys(call.makes(), source.get(value, value)))
    return [place for place, value in enumerate(graph.inputs) if value in found]
