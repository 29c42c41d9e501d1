"""How a batch is cut: the samples that pass through the model together, and what that must leave.

A batch is whole, unless nobody could tell the difference, or `chunk_size` asks for parts.
"""

from typing import TYPE_CHECKING, NamedTuple, NoReturn

import torch

from jacfast.calling import (
    State,
    drops,
    may_be_cut,
    part_of,
    readable,
    separable,
    worth_two_calls,
)
from jacfast.penalties.learned import may_change
from jacfast.step.asked import Asked
from jacfast.step.draw import penalised_count

if TYPE_CHECKING:
    from jacfast.step.step import Step


class Cut(NamedTuple):
    """Which samples pass together.

    Attributes:
        chunk: samples at a time.
        sorts: whether the penalised samples may pass first, without the others. Else a batch that
            is passed whole keeps its order, and the penalised are chosen among the outputs.
        guards: whether to look if a part of the batch changes the model, which it must not; nor
            the penalty, at which is always looked.
    """

    chunk: int
    sorts: bool
    guards: bool


def cut(step: "Step", asked: Asked) -> Cut:
    """Choose how often the model is called: once, unless the batch may be cut."""
    model, modules, penalty, x, _, arguments = asked
    samples, some = len(x), penalty.subsample < 1
    certain = step.batch_norm != "coupled" and not arguments.any
    certain = certain and (some or may_be_cut(x)) and separable(modules)
    if some and certain and step.chunk_size is None:
        certain = worth_two_calls(model, x)
    if some and step.generator is None and not readable(x.device) and drops(model):
        certain = False  # nothing can be drawn beside the masks, which come first
    whole = not certain or may_change(penalty)
    chunk = step.chunk_size or (samples if whole else part_of(model, x))
    return Cut(chunk, certain or chunk < samples, chunk < samples and not certain)


class Unchanged:
    """Model and penalty as they were before the first part, which must not change them."""

    def __init__(self, cut: Cut, asked: Asked, generator: torch.Generator | None) -> None:
        self._samples, self._chunk = len(asked.x), cut.chunk
        self._before: dict[str, State] = {}
        if cut.guards:
            self._before["model"] = State(asked.model, [generator], arguments=asked.arguments)
        if cut.chunk < penalised_count(asked.penalty, len(asked.x)) and may_change(asked.penalty):
            self._before["penalty"] = State(None, [generator], beside=asked.penalty)

    def check(self, what: str) -> None:
        """Look at the model, or the penalty, once; if it has changed, put it back and refuse."""
        before = self._before.pop(what, None)
        if before and (changed := before.changed()):
            before.undo()
            self.refuse(what, changed)

    def refuse(self, what: str, changed: str) -> NoReturn:
        """Refuse parts of a batch for what they change.

        Raises:
            ValueError: always.
        """
        raise ValueError(
            f"chunk_size must be the whole batch, {self._samples}, or None for a {what} that "
            f"changes when it is called, by {changed} (once per chunk it would change too often); "
            f"got {self._chunk}"
        )
