"""What a model is called with beside x."""

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor
from torch.utils import _pytree as pytree

from jacfast.calling.inputs import ordinary


class Arguments:
    """Further arguments of a model, ``model(x, *args, **kwargs)``, for a batch of N samples.

    Tensors among them whose first dimension is N, at whatever depth of tuples, lists and
    dictionaries, belong to the samples (attention masks, conditions, a second image) and go along
    with them when a batch is cut, reordered or repeated; all else is passed as it is. What has N
    entries by chance is put in a function around the model.

    Args:
        args: passed after x, in this order.
        kwargs: passed by name.
        samples: N.

    Raises:
        TypeError: args is no sequence, or kwargs no mapping by names.
    """

    def __init__(
        self, args: Sequence = (), kwargs: Mapping[str, Any] | None = None, *, samples: int
    ) -> None:
        if isinstance(args, str) or not isinstance(args, Sequence):
            raise TypeError(f"args must be a tuple of arguments after x; got {type(args).__name__}")
        named = isinstance(kwargs, Mapping) and all(isinstance(name, str) for name in kwargs)
        if kwargs is not None and not named:
            raise TypeError(f"kwargs must hold arguments by name; got {kwargs!r}")
        self._leaves: list[Any] = []
        self._follow: list[int] = []
        if not args and not kwargs:
            return
        leaves, self._shape = pytree.tree_flatten((tuple(args), dict(kwargs or {})))
        self._leaves = [ordinary(leaf) if isinstance(leaf, Tensor) else leaf for leaf in leaves]
        # settled here: after a cut, others may happen to have as many entries
        self._follow = [
            place
            for place, leaf in enumerate(self._leaves)
            if isinstance(leaf, Tensor) and leaf.dim() > 0 and len(leaf) == samples
        ]

    @property
    def any(self) -> bool:
        """Say whether the call is more than ``model(x)``."""
        return bool(self._leaves)

    @property
    def follow(self) -> bool:
        """Say whether some belong to the samples."""
        return bool(self._follow)

    def rows(self, index: slice | Tensor) -> "Arguments":
        """Return those of some samples: a slice, or a tensor of indices or of bool, as of x."""
        if not self._follow:
            return self
        part = copy.copy(self)
        part._leaves = list(self._leaves)
        for place in self._follow:
            leaf = self._leaves[place]
            part._leaves[place] = leaf[index if isinstance(index, slice) else index.to(leaf.device)]
        return part

    def double(self) -> "Arguments":
        """Return them with tensors of floating point in float64."""
        other = copy.copy(self)
        other._leaves = [
            leaf.double() if isinstance(leaf, Tensor) and leaf.is_floating_point() else leaf
            for leaf in self._leaves
        ]
        return other

    def call(self, model: Callable, x: Tensor) -> Any:
        """Return whatever the model returns for x and these."""
        if not self._leaves:
            return model(x)
        args, kwargs = pytree.tree_unflatten(self._leaves, self._shape)
        return model(x, *args, **kwargs)
