"""What an iteration would launch on a GPU, and where it would wait for one, counted on the CPU."""

import contextlib
from collections import Counter
from collections.abc import Iterator

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from jacfast import vjp
from jacfast.calling.arguments import Arguments

TWO = ("scatter", "masked_fill", "index_put", "index_add", "index_fill", "index_copy")
WAITS = ("_local_scalar_dense", "nonzero", "masked_select", "is_nonzero", "equal", "item")
# Nothing of these on a CPU is an operation.
COPIES = ("tolist", "numpy", "__array__", "cpu", "cuda", "new_tensor")
PLACES = ("to", "tensor", "as_tensor")


class Launches(TorchDispatchMode):
    """Counts operations outside the model's own forward and backward passes.

    An operation launches one kernel, unless all that it returns is memory of its arguments which it
    does not write (a view), or new memory that nobody has written (``empty``); two, if it copies
    what its namesake in place would write to. It waits if the host reads a number, the shape of
    what it returns depends on values, or memory is copied between host and device.
    """

    def __init__(self) -> None:
        super().__init__()
        self.launched: Counter[str] = Counter()
        self.waited: Counter[str] = Counter()
        self.inside = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        if not self.inside:
            if name in WAITS or _shape_depends_on_values(func, args):
                self.waited[name] += 1
            elif not _is_free(func, args, kwargs, result):
                self.launched[name] += 1 + (name in TWO)
        return result

    @contextlib.contextmanager
    def counting(self, monkeypatch) -> Iterator["Launches"]:
        """Count, but not what calls of the model and `torch.autograd.grad` launch."""
        monkeypatch.setattr(Arguments, "call", self._apart(Arguments.call))
        monkeypatch.setattr(vjp, "grad", self._apart(vjp.grad))
        with _Copies(self), self:
            yield self

    def _apart(self, function):
        def called(*args, **kwargs):
            self.inside += 1
            try:
                return function(*args, **kwargs)
            finally:
                self.inside -= 1

        return called


class _Copies(TorchFunctionMode):
    """Counts what would be a copy to or from the host, if the tensors were on a GPU."""

    def __init__(self, launches: Launches) -> None:
        super().__init__()
        self.launches = launches

    def __torch_function__(self, func, types, args=(), kwargs=None):
        name, kwargs = getattr(func, "__name__", ""), kwargs or {}
        named = [v for v in (*args, *kwargs.values()) if isinstance(v, str | torch.device)]
        if not self.launches.inside and (name in COPIES or (name in PLACES and named)):
            self.launches.waited[name] += 1
        return func(*args, **kwargs)


def _shape_depends_on_values(func, args) -> bool:
    if func.overloadpacket.__name__.startswith("index"):  # tagged for masks alone
        return any(_is(i) and i.dtype == torch.bool for i in tree_leaves(args[1:]))
    tags = (torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape)
    return any(tag in func.tags for tag in tags)


def _is_free(func, args, kwargs, result) -> bool:
    if func.overloadpacket.__name__.removeprefix("new_").startswith("empty"):
        return True
    given = {t.untyped_storage().data_ptr() for t in tree_leaves((args, kwargs)) if _is(t)}
    made = [t.untyped_storage().data_ptr() for t in tree_leaves(result) if _is(t)]
    return not func._schema.is_mutable and all(storage in given for storage in made)


def _is(value) -> bool:
    return isinstance(value, Tensor)
