"""What a model is called with beside x."""

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from jacfast.calling.inputs import check_dense, ordinary
from jacfast.calling.moved import version
from jacfast.calling.rebuilt import copies_in


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
        self._carries = self._cut = self.written = False
        self._find()

    def _find(self) -> None:
        """Find the tensors, and which of them belong to the samples."""
        leaves = pytree.tree_leaves(self._given) if self.any else []  # a walk costs calls
        self._tensors = [t for t in leaves if isinstance(t, Tensor)]
        # by the number of a tensor that was given, what is passed in its place
        self._instead = {id(t): new for t in self._tensors if (new := ordinary(t)) is not t}
        # settled here: after a cut, others may happen to have as many entries
        self._follow = [t for t in self._tensors if t.dim() > 0 and t.size(0) == self._samples]

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
        some = {id(t): self._rows(t, index) for t in self._follow}
        other = self._with(some) if some else self
        other._cut = other is not self
        return other

    def _rows(self, t: Tensor, index: slice | Tensor) -> Tensor:
        now, index = self._now(t), index if isinstance(index, slice) else index.to(t.device)
        if now.is_sparse:  # it is cut in no other way
            return now.index_select(0, torch.arange(len(now), device=now.device)[index])
        if now.is_nested or now.layout != torch.strided:
            check_dense(next(name for name, one in self.named.items() if _holds(one, t)), now)
        return now[index]

    def double(self) -> "Arguments":
        """Return them with tensors of floating point in float64."""
        return self._with(
            {id(t): self._now(t).double() for t in self._tensors if t.is_floating_point()}
        )

    def copied(self) -> "Arguments":
        """Return the same in containers and tensors of their own, but for tensors with a gradient.

        And for what is in objects, which `State` looks into.
        """

        def own(leaf: Any) -> Any:
            now = self._now(leaf)
            return now.clone() if isinstance(now, Tensor) and not now.requires_grad else now

        other = copy.copy(self)
        other._given = pytree.tree_map(own, self._given)
        other._find()
        return other

    def content(self) -> tuple[Any, list[Any]]:
        """Return how it is held, and what: numbers and objects, and how often tensors were written.

        To be compared with what it is after a call.
        """
        leaves, structure = pytree.tree_flatten(self._given)
        return structure, [(id(t), version(t)) if isinstance(t, Tensor) else id(t) for t in leaves]

    def leaves(self) -> "tuple[Arguments, list[tuple[Tensor, Tensor]]]":
        """Return them with a leaf in place of each tensor that requires grad, and these pairs.

        What a tensor was computed by is then its owner's: no backward pass through the model comes
        there, and its gradient is the leaf's.
        """
        own = {id(t): now for t in self._tensors if (now := self._now(t)).requires_grad}
        leaves = {number: now.detach().requires_grad_() for number, now in own.items()}
        other = self._with(leaves)
        other._carries = True
        return other, [(own[number], leaf) for number, leaf in leaves.items()]

    def call(self, model: Callable, x: Tensor) -> Any:
        """Return whatever the model returns for x and these.

        Of containers those are copied in which a tensor is replaced: a list that the model writes
        to is the caller's. What it writes to a copy that stands for one is carried over; of a copy
        that holds some of the samples it is lost, and noted as `written`.
        """
        if not self.any:
            return model(x)
        passed = args, kwargs = self._passed()
        copies = list(copies_in(self._given, passed)) if self._carries or self._cut else []
        returned = model(x, *args, **kwargs)
        for one in copies:
            if one.written:
                self.written = True
                if not self._cut:
                    one.carry()
        return returned

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


def _holds(part: Any, t: Tensor) -> bool:
    return any(leaf is t for leaf in pytree.tree_leaves(part))


def _copied(leaf: Any) -> Any:
    """Return a copy of what is a container, but of a class that pytree does not know."""
    return copy.copy(leaf) if isinstance(leaf, list | dict | set) else leaf
