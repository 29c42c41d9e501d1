"""Where lean layers put the gradients of their parameters."""

import contextlib
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from jacfast.graph import leaf_of, nodes


class Sink:
    """One buffer per parameter, to which every sweep and every part of a batch adds in place.

    Lean layers take their weights as constants, and hand gradients to this instead of returning
    them: a weight is used by two sweeps (that of the loss, that of the penalty) and by each chunk
    of a batch, and autograd would make a new tensor for every one of those and add them up.

    Attributes:
        anchor: a scalar on which every lean layer depends. Asking autograd for its gradient runs
            the layers' backward passes; it receives none itself.
        root: the leaf that stands for the model's input.
        gram: the `jacfast.lean.gram.Gram` of a linear layer on the root.
        rectified: a ReLU's input and output, if it was the last call, for a pooling to come.
        attends: whether the model has attention, which checkpoints must find in backward passes as
            it was.
        wants_root: whether the gradient of the root is wanted from the sweeps that collect.
    """

    def __init__(self, parameters: Iterable[Tensor] = (), device: Any = None) -> None:
        self.parameters = set(parameters)
        self.gradients: dict[Tensor, Tensor] = {}
        self.anchor = torch.zeros((), device=device, requires_grad=True)
        self.root: Tensor | None = None
        self.gram: Any = None
        self.rectified: tuple[Tensor, Tensor] | None = None
        self.attends = self.wants_root = False
        self.collecting = False
        self.depth, self.closed = 0, False

    def begin(self, root: Tensor) -> None:
        """Take `root` for the leaf of the graph that is made next."""
        self.root, self.gram, self.rectified = root, None, None

    @contextlib.contextmanager
    def mine(self, collecting: bool = False) -> Iterator[None]:
        """Let backward passes run, and add to the gradients if `collecting`, inside the context.

        After the first such context others are errors: a backward pass that starts from something
        else that the model computed would find no parameters.
        """
        before, self.collecting = self.collecting, collecting
        self.depth, self.closed = self.depth + 1, False
        try:
            yield
        finally:
            self.collecting, self.depth = before, self.depth - 1
            self.closed = self.depth == 0
            if self.closed:  # the graph holds this sink: a cycle would never be freed
                self.root, self.gram, self.rectified = None, None, None

    def check_open(self) -> None:
        if self.closed:
            raise RuntimeError(
                "a tensor that the model computed beside its logits (an auxiliary loss?) was "
                "differentiated, and would give its layers no gradient: with forward_with_penalty "
                "only logits and penalty can be; add penalty(logits, x) to the loss instead"
            )

    def add(self, parameter: Tensor | None, value: Tensor, shared: bool = False) -> None:
        """Add `value` to the gradient of `parameter`; it becomes the buffer unless `shared`."""
        if parameter is None or parameter not in self.parameters:
            return
        if parameter in self.gradients:
            self.gradients[parameter].add_(value)
        else:
            self.gradients[parameter] = value.to(parameter.dtype, copy=shared)

    def add_product(self, weight: Tensor, a: Tensor, b: Tensor) -> None:
        """Add a^T b, for a [R, O] and b [R, I], to the gradient of `weight` [O, I]."""
        if weight in self.gradients and a.dtype == weight.dtype:
            self.gradients[weight].addmm_(a.t(), b)
        elif weight in self.parameters:
            self.add(weight, a.t() @ b)

    def scale(self, factor: Tensor) -> None:
        """Multiply what has been collected so far."""
        for gradient in self.gradients.values():
            gradient.mul_(factor)

    def knows(self, parameter: Tensor | None) -> bool:
        """Say whether nothing is lost if autograd does not see `parameter`."""
        return parameter is None or parameter in self.parameters or not parameter.requires_grad

    def skips(self, x: Tensor) -> bool:
        """Say whether nobody wants the gradient of x, a layer's input: only the root is behind."""
        if self.root is None or self.wants_root:
            return False
        if x.grad_fn is None:
            return x is self.root
        leaves = (leaf_of(node) for node in nodes(x))
        return all(leaf is None or leaf is self.root for leaf in leaves)


class Layer(NamedTuple):
    """What a lean layer remembers of a call beside its input."""

    sink: Sink
    weight: Tensor
    bias: Tensor | None
    skip: bool  # no gradient of the input in sweeps that collect
    shape: Any = None

    @property
    def trained(self) -> bool:
        """Whether the weight wants a gradient, for which the input must be kept."""
        return self.weight in self.sink.parameters

    def of_tangent(self) -> "Layer":
        """Return the layer without its bias, as it acts on a tangent."""
        return self._replace(bias=None, skip=False)
