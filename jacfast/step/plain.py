"""A step so small that its calls cost more than its operations: plain double backward."""

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm

from jacfast.calling import as_rows, is_small, parameters, pick, separable, tree
from jacfast.calling.outputs import Output
from jacfast.ops.checks import accumulator
from jacfast.penalties.base import Penalty
from jacfast.step.draw import Noise, Order, penalised
from jacfast.vjp import looped

# Of the known layers, those whose backward pass jacfast.second or jacfast.layouts puts right.
HELPED = (nn.Hardsigmoid, _BatchNorm, _InstanceNorm)


def is_cheaper(model: nn.Module, penalty: Penalty, x: Tensor) -> bool:
    """Say whether plain double backward is cheaper than a node with lean layers, and certain.

    Certain is it for layers that `jacfast.calling.parts` knows, which have a second derivative and
    couple no samples; cheaper while the largest tensor, times the projections, and the products
    with weights are small, on a CPU. On a GPU nobody has looked.
    """
    if x.device.type != "cpu" or not torch.is_grad_enabled() or not separable(model):
        return False
    if any(isinstance(module, HELPED) for module in tree(model)):
        return False
    n = getattr(penalty, "n", 1)
    trained = any(p.requires_grad for p in parameters(model))
    return trained and is_small(model, x, n if isinstance(n, int) else None)


def plain_step(
    model: nn.Module,
    penalty: Penalty,
    x: Tensor,
    y: Tensor | None,
    output: Output,
    generator: torch.Generator | None,
) -> tuple[Tensor, Tensor]:
    """Return logits and penalty, with autograd's own graph behind them."""
    leaf = x if x.requires_grad else x.detach().requires_grad_()
    entry = leaf.clone()  # the model may begin in place, and x stays as it is
    logits = pick(model(entry), output)
    outputs, chosen = as_rows(logits, entry), None
    count = penalised(penalty, len(x))
    if count < len(x):
        chosen = Order(len(x), x.device)(penalty, generator)[:count]
        outputs, y = outputs[chosen], None if y is None else y[chosen]
    penalty.check(outputs, y)
    noise = Noise(count, outputs)(penalty, generator)
    g = looped(outputs, entry, penalty.cotangents(outputs, entry, y, noise), create_graph=True)
    g = g if chosen is None else g.index_select(1, chosen)
    sizes = _squares(g) if penalty.squared else penalty.measure(g.flatten(0, 1))
    total = penalty.collect(sizes.view(g.shape[:2]))
    return logits.clone(), penalty.reduce(total, count)  # logits may be changed outside


def _squares(g: Tensor) -> Tensor:
    """Return what `row_norm` returns for "sumsq", for less calls in the derivative."""
    g = g.to(accumulator(g.dtype))
    return g.square().sum(dim=-1, dtype=torch.float64).to(g.dtype)
