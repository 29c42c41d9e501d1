"""Where a second pass begins: where the model's own call did."""

import contextlib
from collections.abc import Callable, Collection
from contextlib import AbstractContextManager
from typing import Any

from torch import nn

from jacfast.calling import Arguments, State, tree
from jacfast.penalties.base import Penalty
from jacfast.penalties.learned import modules_in


def beginning(
    model: nn.Module,
    penalty: Penalty,
    but: Collection[Any],
    arguments: Arguments | None = None,
    frozen: Collection[nn.Module] = (),
) -> Callable[[], AbstractContextManager]:
    """Note where the model is; return a context in which it is there again, to be used once.

    Modules of the penalty may be the model's, too, to be saved with it. Those that the first pass
    leaves as they are change by the penalty alone, and stay as that leaves them. `frozen` modules
    have the buffers that the first pass leaves.
    """
    own = {id(module) for module in modules_in(penalty)}  # some of a user's own have no hash
    shared = [module for module in tree(model) if id(module) in own] if own else []
    before = State(model, [*but, *shared], arguments=arguments, frozen=frozen)
    if not shared:
        return before.again
    theirs = State(nn.ModuleList(shared), but, frozen=frozen)

    @contextlib.contextmanager
    def again():
        with before.again(), theirs.again() if theirs.changed() else contextlib.nullcontext():
            yield

    return again
