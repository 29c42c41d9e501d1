"""The mode in which calls of stock layers run as lean ones."""

from collections.abc import Callable
from typing import Any, NamedTuple

from torch import Tensor
from torch.overrides import TorchFunctionMode

from jacfast.calling.contexts import hooked
from jacfast.calling.listeners import ASKS, note
from jacfast.calling.stock import overridden
from jacfast.calling.taken import taken
from jacfast.graph import leaf_of, nodes
from jacfast.lean.gram import Gram
from jacfast.lean.pool import POOLS
from jacfast.lean.sweep import Sweep

# Entries of a layer's output from which a lean layer pays: below, its calls cost more than they
# save (benchmarks/README.md, 'Small networks').
LEAST = 1 << 18


class Table(NamedTuple):
    """Which functions run as lean layers.

    Attributes:
        layers: of each function, what runs in its place: it takes the mode and the arguments, and
            returns None for what it does not know (`jacfast.lean.calls`).
        trains: whether gradients of parameters are wanted, through second derivatives.
    """

    layers: dict[Callable, Callable]
    trains: bool


class Lean(TorchFunctionMode):
    """While active, calls of the functions in `table` run as lean layers, in the sweeps `sweep`.

    Whatever a lean layer does not know (its function here returns None, or does not take it) runs
    as it is: unusual arguments, torch.func transforms, saved-tensor hooks (gradient checkpointing),
    inputs that need no gradient; and all layers before the first one of at least `least` entries,
    or around which someone else has a mode for functions.

    Attributes:
        root: the leaf that stands for the model's input.
        rows: how many cotangents there will be at most, where the sum of their squares is all
            that is wanted; else None.
        gram: the `jacfast.lean.gram.Gram` of a linear layer on the root, if there is one.
        rectified: a ReLU's input and output, if it was the last call, for a pooling to come.
        attends: whether attention has been called.
        hooked: whether hooks have saved tensors, as in a checkpoint.
        yields: whether all functions are left to a mode of someone else's.
    """

    def __init__(
        self,
        sweep: Sweep,
        table: Table,
        root: Tensor | None = None,
        rows: int | None = None,
        least: int | None = None,
    ) -> None:
        super().__init__()
        self.sweep, self.table, self.root, self.rows = sweep, table, root, rows
        self.least = LEAST if least is None else least
        self.gram: Gram | None = None
        self.rectified: tuple[Tensor, Tensor] | None = None
        self.attends = self.hooked = self.yields = False

    def __torch_function__(
        self, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        kwargs = kwargs or {}
        self.hooked = self.hooked or hooked()
        if self.rectified is not None and func not in POOLS:
            self.rectified = None
        layer, result = None if self.yields else self.table.layers.get(func), None
        if layer is not None:
            result = taken(layer, self, *args, **kwargs)
        elif func in ASKS:
            note(*args, **kwargs)
        return func(*args, **kwargs) if result is None else result

    def __enter__(self) -> "Lean":
        self.sweep.in_model = True
        self.yields = overridden()
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        self.sweep.in_model = False
        self.rectified = None  # whoever keeps this, for what was met, needs no activations
        super().__exit__(*error)

    @property
    def active(self) -> bool:
        """Whether there are lean layers, or are to be from the first one on."""
        return self.least == 0

    @property
    def unused(self) -> bool:
        """Whether all that has run is PyTorch's own, and needs none of this in its backward pass.

        Attention does not: the hook of a fused kernel is there while the penalty is computed.
        """
        return not (self.active or self.hooked or self.yields)

    def pays(self, entries: int) -> bool:
        """Say whether a layer of that many entries is to be lean: all are, after the first one.

        So that a graph in which lean layers cut the ties has no others that tie it.
        """
        if entries >= self.least:
            self.least = 0
        return self.least == 0

    def skips(self, x: Tensor) -> bool:
        """Say whether nobody wants the gradient of x, a layer's input: only the root is behind."""
        if self.root is None or self.sweep.wants_root:
            return False
        if x.grad_fn is None:
            return x is self.root
        leaves = (leaf_of(node) for node in nodes(x))
        return all(leaf is None or leaf is self.root for leaf in leaves)
