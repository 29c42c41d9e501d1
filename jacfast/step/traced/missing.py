"""The backward graph where some gradients do not come in: only the logits, or only the penalty."""

from collections.abc import Collection
from typing import Any

import torch

from jacfast.step.traced.graph import Call, Graph, Value, values

aten = torch.ops.aten
ADDS = (aten.add_.Tensor, aten.addmm_.default, aten.addmv_.default, aten._foreach_add_.List)
PRODUCT = aten.addcmul.default  # what has been collected before, weighted, and a later gradient
SCALES = (aten.mul_.Tensor, aten._foreach_mul_.Tensor)


def without(graph: Graph, incoming: Collection[Value], missing: Collection[Value]) -> Graph:
    """Return a backward graph without the gradients `missing` of those that come in.

    A backward pass is linear in what comes in. So whatever hangs from missing gradients alone is
    zero, and not computed: an infinity that it would be multiplied by stays out, as in eager mode,
    and outputs that are zero are None.
    """
    zero, hangs, kept = set(missing), set(incoming), list[Call]()
    for call in graph.calls:
        reads = set(call.reads())
        dead, live = reads & zero, (reads & hangs) - zero
        written = set(values((call.args[:1], call.kwargs.get("out")))) if call.acts else set()
        if not dead:
            hangs |= {*call.makes(), *written} if live else set()
        elif not (call.acts or live):
            zero.update(call.makes())
            continue
        elif call.function in SCALES and dead.isdisjoint(written):
            zero |= written
            continue
        elif call.function in ADDS and not (live - written) and dead.isdisjoint(written):
            continue
        elif call.function == PRODUCT and call.args[0] in live:
            call = Call(aten.clone.default, call.args[:1], {}, call.results, False)
            hangs |= set(call.makes())
        else:
            for value in dead:
                kept += _zeros(value)
            zero -= written
            hangs |= {*call.makes(), *written}
        kept.append(call)
    outputs = [None if value in zero else value for value in graph.outputs]
    inputs = [value for value in graph.inputs if value not in missing]
    return Graph(inputs, kept, outputs, graph.constants).needed()


def _zeros(value: Value) -> list[Call]:
    """Return the calls that make a value of zeros."""
    like: Any = value.like
    shape, stride = list(like.shape), list(like.stride())
    kwargs = {"dtype": like.dtype, "device": value.device}
    make = Call(aten.empty_strided.default, (shape, stride), kwargs, value, False)
    return [make, Call(aten.zero_.default, (value,), {}, None, True)]
