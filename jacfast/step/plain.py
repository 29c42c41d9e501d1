"""Steps that are plain double backward: small ones, and those of linear layers alone.

Of known layers, whose graph needs no look, and of models that `jacfast.step.seen` remembers.
"""

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm

from jacfast.batching import together
from jacfast.calling import (
    as_rows,
    drops,
    entries_of,
    has_few_products,
    parameters,
    part_of,
    pick,
    rows_of,
    separable,
    tree,
    weights,
)
from jacfast.calling.outputs import Output
from jacfast.graph import Graph
from jacfast.lacking import explain_new
from jacfast.lean import mode
from jacfast.lean.gram import Gram
from jacfast.penalties.base import Penalty, cotangents_of
from jacfast.second import watched
from jacfast.step.draw import Noise, Order, penalised_count
from jacfast.step.entry import Entry, first_linear
from jacfast.step.seen import Expected
from jacfast.vjp import each_or_all, grad

# Of the known layers, those whose backward pass jacfast.second or jacfast.layouts puts right.
HELPED = (nn.Hardsigmoid, _BatchNorm, _InstanceNorm)
# Those whose second derivatives cost in PyTorch what they must.
DENSE = {
    *(nn.Sequential, nn.Flatten, nn.Identity, nn.Linear, nn.Dropout),
    *(nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.Hardtanh, nn.Threshold),
}
# Products with weights from which on a pass of a part of the batch is worth its calls, and reading
# the weights once more: measured, benchmarks/README.md, 'Small networks'.
CALL = 1 << 24
# Entries of the largest tensor, times the rows that are pulled back, up to which the Gram matrix of
# a first layer costs more calls than it saves products.
SMALL = 1 << 17


def is_cheaper(model: nn.Module, modules: list[nn.Module], penalty: Penalty, x: Tensor) -> bool:
    """Say whether plain double backward is cheaper than a node with lean layers, and certain.

    Certain is it for layers that `jacfast.calling.parts` knows, which have a second derivative and
    couple no samples; cheaper on a CPU where no layer is so large that it would be a lean one, the
    products with weights are few and the Gram matrix of the first one saves little; and for one
    projection of a network of linear layers whatever its size. On a GPU nobody has looked.
    """
    if x.device.type != "cpu" or not torch.is_grad_enabled() or not separable(modules):
        return False
    kinds = set(map(type, modules))
    if any(issubclass(kind, HELPED) for kind in kinds):
        return False
    if not any(p.requires_grad for p in parameters(modules)):
        return False
    n = getattr(penalty, "n", 1)
    rows = n if isinstance(n, int) else rows_of(model, x)
    most = entries_of(model, x)
    if most < mode.LEAST and has_few_products(modules, x):
        return rows * most <= SMALL or not _by_gram(model, penalty, rows * len(x))
    return n == 1 and kinds <= DENSE and _once(model, penalty, x)


def _once(model: nn.Module, penalty: Penalty, x: Tensor) -> bool:
    """Say whether each product with a weight is computed once, in plain double backward, too."""
    count = penalised_count(penalty, len(x))
    if first_linear(model, penalty) is None or part_of(model, x) < len(x):
        return False
    if count < len(x) and not _pass_ahead(model, x):
        return False
    return not _by_gram(model, penalty, count)


def _by_gram(model: nn.Module, penalty: Penalty, rows: int) -> bool:
    """Say whether so many rows are cheaper by the Gram matrix of a first linear layer.

    With a third of them to spare, for what the node costs beside products.
    """
    linear = first_linear(model, penalty) if penalty.summed else None
    return linear is not None and Gram.pays(linear.weight, rows * 2 // 3)


def _pass_ahead(model: nn.Module, x: Tensor) -> bool:
    """Say whether penalised samples pass first, without the others, and only they are pulled back.

    Not if there are dropout masks to share, or if one more call costs more than it saves.
    """
    return weights(tree(model)) * len(x) >= CALL and not drops(model)


def plain_step(
    model: nn.Module,
    penalty: Penalty,
    x: Tensor,
    y: Tensor | None,
    output: Output,
    generator: torch.Generator | None,
    expected: Expected | None = None,
) -> tuple[Tensor, Tensor]:
    """Return logits and penalty, with autograd's own graph behind them.

    Of a model whose layers are not known it is `expected` that the graph is plain; it is looked at.

    Raises:
        Otherwise: it is not, and the model has been called.
    """
    count = penalised_count(penalty, len(x))
    ahead = count < len(x) and expected is None and _pass_ahead(model, x)
    order = Order(len(x), x.device)(penalty, generator) if ahead else None
    at = x if order is None else x[order[:count]]
    if expected is None:
        entry = Entry(model, first_linear(model, penalty), at)
    else:
        entry = expected.call(model, at)
    passed = pick(entry.returned, output)
    outputs, rows = as_rows(passed, entry.x), None
    graph = None if expected is None else expected.graph(passed, outputs, entry.x)
    if order is None:
        logits = passed.clone()  # which may be changed outside
        if count < len(x):  # drawn after the model has drawn what it draws in any call
            order = Order(len(x), x.device)(penalty, generator)
            rows = order[:count]
            outputs = outputs[rows]
    else:
        joined = torch.cat([passed, pick(model(x[order[count:]]), output)])
        logits = torch.empty_like(joined).index_copy_(0, order, joined)
    y = y if y is None or order is None else y[order[:count]]
    penalty.check(outputs, y)
    noise = Noise(count, outputs)(penalty, generator)
    vectors = cotangents_of(penalty, outputs, entry.x, y, noise)
    totals = [penalty.total(g) for g in _pulled(outputs, entry, vectors, rows, graph)]
    total = torch.stack(totals).sum(0) if len(totals) > 1 else totals[0]
    return logits, penalty.reduce(total, count)


def _pulled(
    outputs: Tensor, entry: Entry, vectors: Tensor, rows: Tensor | None, graph: Graph | None
) -> Iterator[Tensor]:
    """Yield J^T v with its graph, one by one as [1, N, ...], or all at once, where that pays.

    See that each has a second derivative, if that is unknown: of a `graph`.
    """

    def pull(v: Tensor, batched: bool = False) -> Tensor:
        if graph is None:
            g = grad(outputs, entry.edge, v, create_graph=True, batched=batched)
        else:
            with watched(graph, entry.x):
                g = grad(outputs, entry.edge, v, create_graph=True, batched=batched)
            explain_new(graph, g)
        return entry.row(g, rows, batched)

    count = len(vectors)
    at_once = count > 1 and together(count, entry.x, graph or Graph(outputs))
    return each_or_all(pull, vectors, at_once)
