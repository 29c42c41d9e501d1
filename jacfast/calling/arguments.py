"""What a model is called with beside x."""

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor
from torch.utils import _pytree as pytree

from jacfast.calling.inputs import ordinary
from jacfast.calling.places import entries


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
        self._given, self._samples = (tuple(args), dict(kwargs or {})), samples
        leaves = pytree.tree_leaves(self._given) if self.any else []  # a walk costs calls
        self._tensors = [t for t in leaves if isinstance(t, Tensor)]
        # by the number of a tensor that was given, what is passed in its place
        self._instead = {id(t): new for t in self._tensors if (new := ordinary(t)) is not t}
        # settled here: after a cut, others may happen to have as many entries
        self._follow = [t for t in self._tensors if t.dim() > 0 and len(t) == samples]

    @property
    def any(self) -> bool:
        """Say whether the call is more than ``model(x)``."""
        return any(self._given)

    @property
    def named(self) -> dict[str, Any]:
        """Return what was given, by its name or place."""
        args, kwargs = self._given
        return {f"args[{i}]": one for i, one in enumerate(args)} | {
            repr(name): one for name, one in kwargs.items()
        }

    @property
    def follow(self) -> bool:
        """Say whether some belong to the samples."""
        return bool(self._follow)

    def apart(self) -> "Arguments":
        """Return the same in containers of their own: a model may write to these unseen."""
        other = copy.copy(self)
        other._given = pytree.tree_map(_copied, self._given)
        return other

    def parts(self) -> tuple:
        """Return what is passed, and which of its tensors belong to the samples."""
        follow = {id(t) for t in self._follow}
        return self._passed(), [id(t) in follow for t in self._tensors]

    def rows(self, index: slice | Tensor) -> "Arguments":
        """Return those of some samples: a slice, or a tensor of indices or of bool, as of x."""
        if isinstance(index, slice) and index == slice(0, self._samples):
            return self
        some = {
            id(t): self._now(t)[index if isinstance(index, slice) else index.to(t.device)]
            for t in self._follow
        }
        return self._with(some) if some else self

    def double(self) -> "Arguments":
        """Return them with tensors of floating point in float64."""
        return self._with(
            {id(t): self._now(t).double() for t in self._tensors if t.is_floating_point()}
        )

    def copied(self) -> "tuple[Arguments, list[Tensor]]":
        """Return them with copies of the tensors without a gradient, and these.

        But for those in containers and objects that a model may write to: see `State`.
        """
        own = [t for t in entries(self.named) if isinstance(t, Tensor) and not t.requires_grad]
        copies = {id(t): self._now(t).clone() for t in own}
        return self._with(copies), list(copies.values())

    def leaves(self) -> "tuple[Arguments, list[tuple[Tensor, Tensor]]]":
        """Return them with a leaf in place of each tensor that requires grad, and these pairs.

        What a tensor was computed by is then its owner's: no backward pass through the model comes
        there, and its gradient is the leaf's.
        """
        own = {id(t): now for t in self._tensors if (now := self._now(t)).requires_grad}
        leaves = {number: now.detach().requires_grad_() for number, now in own.items()}
        return self._with(leaves), [(own[number], leaf) for number, leaf in leaves.items()]

    def call(self, model: Callable, x: Tensor) -> Any:
        """Return whatever the model returns for x and these.

        Of containers those are copied in which a tensor is replaced: a list that the model writes
        to is the caller's.
        """
        if not self.any:
            return model(x)
        args, kwargs = self._passed()
        return model(x, *args, **kwargs)

    def _passed(self) -> tuple:
        return pytree.tree_map(self._now, self._given, is_leaf=self._stays)

    def _now(self, leaf: Any) -> Any:
        return self._instead.get(id(leaf), leaf)

    def _stays(self, part: Any) -> bool:
        """Say whether nothing in a part of the arguments is replaced."""
        return not any(id(leaf) in self._instead for leaf in pytree.tree_leaves(part))

    def _with(self, instead: dict[int, Tensor]) -> "Arguments":
        other = copy.copy(self)
        other._instead = self._instead | instead
        return other


def _copied(leaf: Any) -> Any:
    """Return a copy of what is a container, but of a class that pytree does not know."""
    return copy.copy(leaf) if isinstance(leaf, list | dict | set) else leaf
