"""What the model returns for the parts of a batch, and as one."""

from collections.abc import Sequence
from typing import Any, NoReturn

import torch
from torch import Tensor

from jacfast.calling import outline, rebuilt, tensors


class Returned:
    """All that the model returns, for one part of `samples` after the other."""

    def __init__(self, samples: int, chunk: int) -> None:
        self.samples, self.chunk = samples, chunk
        self._parts: list[Any] = []
        self._graphs: list[bool] = []  # of each tensor, whether it has a graph in the first part
        self._shapes: list[list[int]] = []  # of rows, in the first part

    def check_shapes(self, rows: Sequence[Tensor]) -> None:
        """Refuse what has rows of another shape for these samples than for the first ones.

        Raises:
            ValueError: they are others, as of sequences padded to the longest of their part.
        """
        shapes = [list(one.shape[1:]) for one in rows]
        self._shapes = self._shapes or shapes
        for shape, first in zip(shapes, self._shapes, strict=True):
            if shape != first:
                self._refuse(f"rows of shape {first} for some samples and {shape} for others")

    def take(self, returned: Any, logits: Tensor, samples: int) -> list[Tensor]:
        """Take what is returned for some samples, the `logits` among it; return what has a graph.

        Raises:
            TypeError: the logits are nowhere to be found. ValueError: of parts it could not be put
                together.
        """
        found = tensors(returned)
        graphs = [tensor.requires_grad for tensor in found]
        if logits.requires_grad and not any(graphs):
            raise TypeError(
                "the model must return its logits where they can be replaced (a tensor, a tuple, a "
                "list, a dictionary, an attribute): there are none in what it returns, a "
                f"{type(returned).__name__}"
            )
        if samples < self.samples:
            what = self._odd([t for t in found if t is not logits], samples)
            if what is None and self._parts and not self._alike(returned, graphs):
                what = "other things for other samples than rows of tensors"
            if what is not None:
                self._refuse(what)
        self._graphs = self._graphs or graphs
        self._parts.append(returned)
        return [tensor for tensor, has in zip(found, self._graphs, strict=True) if has]

    def _refuse(self, what: str) -> NoReturn:
        raise ValueError(
            f"chunk_size must be the whole batch, {self.samples}, or None for a model that returns "
            f"{what}, as chunks of that cannot be joined; got {self.chunk}"
        )

    def _odd(self, beside: list[Tensor], samples: int) -> str | None:
        """Say what beside the logits is not known to have a row for each of the samples.

        What has as many by chance cannot be told from that; but a single one is no evidence at all.
        """
        for tensor in beside:
            shape = list(tensor.shape)
            if not tensor.dim() or len(tensor) != samples:
                return f"a tensor of shape {shape} for {samples} of the samples"
            if self.chunk == 1:
                return f"a tensor of shape {shape} for one sample, which may be no row of its own"
        return None

    def _alike(self, returned: Any, graphs: list[bool]) -> bool:
        """Say whether this is like the first part's, and has no graph where that has none."""
        if outline(returned) != outline(self._parts[0]):
            return False
        return all(before or not now for before, now in zip(self._graphs, graphs, strict=True))

    def joined(self, order: Tensor | None) -> Any:
        """Return it for all samples, in the order of x; with a graph it is the first part's."""
        first = self._parts[0]
        if len(self._parts) == 1:
            return first  # the very tensors: those without a graph are the model's own
        columns = zip(self._graphs, *map(tensors, self._parts), strict=True)
        others = [column for has, *column in columns if not has]
        return rebuilt(first, [one[0] for one in others], [join(one, order) for one in others])


def join(parts: Sequence[Tensor], order: Tensor | None) -> Tensor:
    """Return rows of samples as one tensor without a graph, a copy; sorted, if in this `order`."""
    if len(parts) == 1:
        return parts[0].detach().clone()
    rows = torch.cat([part.detach() for part in parts])
    return rows if order is None else torch.empty_like(rows).index_copy_(0, order, rows)
