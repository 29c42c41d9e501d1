"""Which backward sweep runs through the graphs of a step, and what it is for."""

import contextlib
from collections.abc import Iterator

PULL, COLLECT, FOREIGN = "pull", "collect", "foreign"


class Sweep:
    """What autograd does not tell a layer: whether the gradients of its parameters are wanted.

    Attributes:
        kind: of the sweep that runs, ``"pull"`` (cotangents of inputs alone) or ``"collect"`` (the
            gradients of the parameters, too); ``"foreign"`` is any sweep from elsewhere.
        wants_root: whether sweeps that collect want the gradient of the model's input.
        in_model: whether the model is running, and what differentiates is the model itself.
    """

    def __init__(self, kind: str = FOREIGN, *, wants_root: bool = False) -> None:
        self.kind, self.wants_root = kind, wants_root
        self.in_model = False

    @contextlib.contextmanager
    def of(self, kind: str) -> Iterator[None]:
        """Let sweeps of this kind run inside the context."""
        before, self.kind = self.kind, kind
        try:
            yield
        finally:
            self.kind = before

    def check_own(self) -> None:
        """Refuse a sweep from elsewhere where it would lose something."""
        if self.kind == FOREIGN:
            raise RuntimeError(
                "a tensor that the model computed beside its logits (an auxiliary loss?) was "
                "differentiated, and would give its layers no gradient: with forward_with_penalty "
                "only logits and penalty can be; add penalty(logits, x) to the loss instead"
            )
