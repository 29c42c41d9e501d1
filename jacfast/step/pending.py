"""What a forward pass leaves to its backward pass: the sweeps through its graphs."""

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.graph import Node

from jacfast.calling import (
    Arguments,
    grad_twice,
    hears_gradients,
    in_eval_mode,
    parameters,
    stood_for,
)
from jacfast.graph import Graph, leaf_of, nodes, saves
from jacfast.lacking import explained
from jacfast.lean import COLLECT, Lean, Sweep
from jacfast.step.checks import check_hooks
from jacfast.step.gradients import Gradients

AGAIN = (
    "backward through forward_with_penalty a second time: its graphs are freed by the first; add "
    "the losses up and call backward once, or, for the gradient of each (PCGrad, say), compute "
    "penalty(logits, x) from logits = model(x) and retain the graph (a state that the model keeps "
    "from an earlier call is another way there: detach it, or pass it as an argument)"
)


class Part(NamedTuple):
    """Samples that passed through the model together, and the graph that hangs from them."""

    leaf: Tensor  # the samples
    tensors: list[Tensor]  # what the model returned: the logits, or all that has a gradient
    graph: Graph  # of these, and of what is penalised
    lean: Lean  # what was met on the way
    totals: list[Tensor]  # of the penalty: sums over samples, or one of each; with their graphs


class Pending:
    """The backward pass of a step.

    What does not touch the forward graph (`now`) has run already, with weight 1, and waits in
    `sums` for the weight of the penalty. The rest runs when the gradients of the outputs are there,
    part by part, the penalty and the outputs in one sweep.
    """

    def __init__(
        self,
        x: Tensor,
        arguments: Arguments,
        modules: Sequence[nn.Module],
        frozen: Sequence[nn.Module],
    ) -> None:
        self.x, self.frozen = x, frozen
        self.arguments, pairs = arguments.leaves()
        self._given = {id(leaf): tensor for tensor, leaf in pairs}  # arguments that require grad
        trained = [p for p in parameters(modules) if p.requires_grad]
        self.parameters = [*trained, *(leaf for _, leaf in pairs)]  # of x the leaf is each part's
        self.trains = torch.is_grad_enabled()
        self.keeps = self.trains and (bool(self.parameters) or x.requires_grad)
        self.learned = False  # whether the penalty depends on parameters but through the outputs
        # a hook on a module hangs behind the module's input
        root = x.requires_grad or hears_gradients(modules)
        self.sweep = Sweep(wants_root=self.keeps and root)
        self.sums = Gradients()
        self.order: Tensor | None = None  # which sample of x each sample of the parts is
        self.parts: list[Part] = []
        self.outside = False  # whether nothing is left to do: the graph is autograd's own
        self.done = False
        self.began: int | None = None  # the number of the first node

    @property
    def inputs(self) -> list[Tensor]:
        """What the parameters are outside: an argument's leaf is the argument."""
        return [self._given.get(id(p), stood_for(p)) for p in self.parameters]

    def samples(self, part: slice) -> slice | Tensor:
        """Return which samples of x are the `part` of the samples as they pass."""
        return part if self.order is None else self.order[part]

    def enter(self, first: Node | None) -> None:
        """Note the first operation of the pass: what has a lower number is someone else's."""
        if self.began is None and first is not None:
            self.began = first._sequence_nr()  # type: ignore[attr-defined]

    def take(self, part: Part) -> None:
        """Take over the graph of a part."""
        if self.trains:
            self._take_originals(part.graph)
            check_leaves(part.graph, [part.leaf, *self.parameters])
        if self.sweep.wants_root:
            part.leaf.register_hook(refusing(self.sweep))  # x would not get it
        self.parts.append(part)

    def _take_originals(self, graph: Graph) -> None:
        """Take in parameters that something has kept, though others stand for them in this pass."""
        real = {id(stood_for(p)) for p in self.parameters} - set(map(id, self.parameters))
        if real:
            self.parameters += [leaf for leaf in graph.leaves if id(leaf) in real]

    def learn(self, part: Part, made: Tensor, of: Tensor) -> None:
        """Take in what the penalty has made something of beside `of`: learned weights, say."""
        if not (self.trains and made.requires_grad):
            return
        found = map(leaf_of, nodes(made, past=of.grad_fn))
        leaves = [leaf for leaf in found if leaf is not None and leaf is not part.leaf]
        self.learned = self.learned or bool(leaves)
        known = set(map(id, self.parameters)) if leaves else set()
        for leaf in leaves:
            if id(leaf) not in known:
                check_hooks(leaf, f"one of the penalty's, of shape {list(leaf.shape)},")
                self.parameters.append(leaf)
                self.keeps = True

    def now(self, part: Part, total: Tensor) -> None:
        """Run the sweep of a total that is apart from the forward graph."""
        self._run(part, [total], [torch.ones_like(total)], keep=False)

    def gradients(self, g_total: Tensor | None, *g_values: Tensor | None) -> list[Tensor | None]:
        """Return the gradients of x and of the parameters, and free all graphs."""
        if self.done:
            raise RuntimeError(AGAIN)
        self.done = True
        if g_total is None:
            self.sums.clear()
        elif not g_total.dim():  # else nothing has run yet
            self.sums.scale(g_total)
        if self.order is not None:
            g_values = tuple(g if g is None else g[self.order] for g in g_values)
        of_x, start, whole = [], 0, len(self.parts) == 1
        while self.parts:
            part = self.parts.pop(0)
            rows = slice(start, start + part.leaf.shape[0])
            start = rows.stop
            own = g_total[rows] if g_total is not None and g_total.dim() else g_total
            of_x.append(self._backward(part, own, [_some(g, rows, whole) for g in g_values]))
        joined = self._of_x(of_x) if self.sweep.wants_root else None
        return [joined, *self.sums.pop(self.parameters)]

    def _backward(
        self, part: Part, g_total: Tensor | None, g_values: Sequence[Tensor | None]
    ) -> Tensor | None:
        """Run all sweeps of a part in one; return the gradient of its samples, if wanted."""
        found = zip(part.tensors, g_values, strict=True)
        ends = [(t, g) for t, g in found if g is not None and t.requires_grad]
        if g_total is not None:
            ends += [(total, g_total.to(total.dtype)) for total in part.totals]
        of_x = None
        if ends:
            outputs, weights = [t for t, _ in ends], [g for _, g in ends]
            # parts can share the graph of a weight that is computed from parameters
            of_x = self._run(part, outputs, weights, keep=bool(self.parts))
        self._close(part)
        return torch.zeros_like(part.leaf) if of_x is None and self.sweep.wants_root else of_x

    def _run(
        self, part: Part, outputs: list[Tensor], weights: list[Tensor], keep: bool
    ) -> Tensor | None:
        """Add the parameters' gradients of the weighted outputs up; return that of the samples."""
        # what has been frozen since is passed by, as in a plain backward pass
        trained = [p for p in self.parameters if p.requires_grad]
        inputs = [*trained, *([part.leaf] if self.sweep.wants_root else [])]
        if not inputs:
            return None
        grad: Callable[..., Any] = grad_twice if part.lean.attends else torch.autograd.grad
        # checkpoints run parts of the model again, as in the forward pass
        frozen = in_eval_mode(self.frozen) if self.frozen else contextlib.nullcontext()
        # the graph of cotangents, and what is from outside, may be in several sweeps
        keep = keep or self.learned or any(True for _ in self._others(part))
        with explained(), self.sweep.of(COLLECT), frozen:
            found = grad(outputs, inputs, weights, retain_graph=keep, allow_unused=True)
        for parameter, gradient in zip(trained, found, strict=False):
            if gradient is not None:
                self.sums.add(parameter, gradient)
        if (gram := part.lean.gram) and (gradient := gram.collected()) is not None:
            self.sums.add(gram.weight, gradient)
        return found[-1] if self.sweep.wants_root else None

    def _of_x(self, parts: list[Tensor | None]) -> Tensor:
        tensors = [part for part in parts if part is not None]
        joined = torch.cat(tensors) if len(tensors) > 1 else tensors[0]
        if self.order is None:
            return joined
        return torch.zeros_like(self.x).index_copy(0, self.order, joined)

    def _close(self, part: Part) -> None:
        """Let whoever comes into a graph from elsewhere, later, hear why he must not.

        What its nodes have saved is freed, of which PyTorch would complain in words of its own.
        """
        refuse, others = refusing(self.sweep), set(self._others(part))
        for some in part.graph.named.values():
            if saves(some[0]):
                for node in some:
                    if node not in others:
                        node.register_prehook(refuse)

    def _others(self, part: Part) -> Iterator[Node]:
        """Yield what in a part's graph is older than the pass, and someone else's."""
        for some in part.graph.named.values():
            if self.began is not None and saves(some[0]):
                yield from (node for node in some if node._sequence_nr() < self.began)  # type: ignore[attr-defined]


def check_leaves(graph: Graph, known: Iterable[Tensor]) -> None:
    """Refuse a graph with leaves of which nobody knows: their gradients would be lost."""
    numbers = set(map(id, known))
    for leaf in graph.leaves:
        if id(leaf) not in numbers:
            raise RuntimeError(
                f"the model's output depends on a tensor of shape {list(leaf.shape)} that is "
                "not one of model.parameters(): its gradient would be lost. Make it a "
                "parameter of the model (if the call itself makes it one: call model(x) once "
                "before), pass it as an argument of the model, or add penalty(logits, x) to the "
                "loss"
            )


def refusing(sweep: Sweep) -> Callable[[Any], None]:
    """Return a hook for what only the sweeps of this library may come to."""

    def refuse(_: Any) -> None:
        sweep.check_own()

    return refuse


def _some(g: Tensor | None, rows: slice, whole: bool) -> Tensor | None:
    return g if g is None or whole else g[rows]
