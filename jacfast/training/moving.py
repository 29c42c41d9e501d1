"""What moves in training: taken down after an epoch, and brought back, all of it or nothing."""

import copy
import dataclasses
import operator
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from jacfast.calling import State, in_eval_mode, pick
from jacfast.calling.seeds import at_seed
from jacfast.models.loading import check_state
from jacfast.runs import check_behaviour
from jacfast.training.descent import inner
from jacfast.training.given import Loader, Tensors
from jacfast.training.seeded import seeded

Drawn = list[tuple[torch.Generator, Tensor]]


@dataclasses.dataclass
class Moving:
    """What changes from step to step.

    Attributes:
        of_loss: what the loss has to learn, see `learned`.
        batches: which have generators of their own, and the inputs at which a model that goes on
            must do as it did.
        drawn: the global generators: the CPU's, then those of the model's GPUs.
    """

    model: nn.Module
    of_loss: nn.Module
    optimizer: Optimizer
    scheduler: LRScheduler | None
    batches: Tensors | Loader
    drawn: list[torch.Generator]

    def state(self) -> dict[str, Any]:
        """Return all of it, and what the model does."""
        order, cpu, *gpus = [one.get_state() for one in (self.batches.order, *self.drawn)]
        found = {name: part.state_dict() for name, part in self._parts().items()}
        return {
            "scheduler": None,
            **found,
            "outputs": self._outputs(),
            "order": order,
            "random": cpu,
            "gpus": gpus,
            "loader": [one.get_state() for one in self.batches.generators],
        }

    def told(self) -> dict[str, Any]:
        """Return what is there of it before the first step, beside the tensors of modules."""
        found: dict[str, Any] = {}
        for name, part in self._parts().items():
            state, module = part.state_dict(), isinstance(part, nn.Module)
            found[name] = {k: v for k, v in state.items() if not (module and isinstance(v, Tensor))}
        return found

    def restore(self, path: Path, state: dict[str, Any]) -> None:
        """Bring everything back to what was read from `path`.

        Raises:
            ValueError: it is of another network, or of one that did something else at the probe;
                then, and after any other error, all is as it was.
        """
        check_state(self.model, state["model"], f"checkpoint {path}")
        check_state(self.of_loss, state["loss"], f"the loss in checkpoint {path}", "the loss")
        parts = self._parts()
        if missing := parts.keys() - state.keys():
            raise ValueError(
                f"checkpoint {path} must hold the state of each optimizer; got none of "
                f"{min(missing)}"
            )
        drawn = self._drawn(state)
        before: Drawn = [(generator, generator.get_state()) for generator, _ in drawn]
        moved: list[tuple[Any, dict]] = []
        try:
            for name, part in parts.items():
                moved.append((part, copy.deepcopy(part.state_dict())))
                part.load_state_dict(state[name])
                if name == "model":
                    self._check_outputs(path, state["outputs"])
            _set(drawn)
        except Exception:
            for part, then in moved:
                part.load_state_dict(then)
            _set(before)
            raise

    def _parts(self) -> dict[str, Any]:
        parts: dict[str, Any] = {"model": self.model, "loss": self.of_loss}
        parts["optimizer"] = self.optimizer
        for number, one in enumerate(inner(self.optimizer)):
            parts[f"inner optimizer {number}"] = _Inner(one, self.optimizer)
        return parts if self.scheduler is None else {**parts, "scheduler": self.scheduler}

    def _drawn(self, state: dict[str, Any]) -> Drawn:
        """Return the generators with their states; the GPUs may be others than then."""
        order, (cpu, *gpus), own = self.batches.order, self.drawn, self.batches.generators
        found = [(order, state["order"]), (cpu, state["random"])]
        found += zip(gpus, state["gpus"], strict=False)
        return [*found, *zip(own, state["loader"], strict=False)]

    def _check_outputs(self, path: Path, then: Tensor | None) -> None:
        now = self._outputs()
        if then is not None and now is not None:
            check_behaviour(str(path), {"logits": then}, {"logits": now})

    @torch.no_grad()
    def _outputs(self) -> Tensor | None:
        """Return the outputs [N, ...] in eval mode, where the model is called as model(x).

        What a model draws, it draws from seed 0, also from Python's and NumPy's numbers; a look
        leaves neither it nor generators changed.
        """
        probe = self.batches.probe
        if probe is None:
            return None
        modules = list(self.model.modules())
        try:
            with (
                State(self.model, copied=sys.maxsize).again(),
                seeded(self.model, 0),  # all of its GPUs
                at_seed(probe.device),  # and Python and NumPy
                in_eval_mode(modules),
            ):
                found = pick(self.model(probe.clone()))
        except Exception:  # the loss calls it in another way, whatever that is
            return None
        return found.reshape(len(found), -1).cpu() if found.dim() > 0 else None


class _Inner:
    """An optimizer that another one, as SAM, is around, and whose state that may leave out."""

    def __init__(self, optimizer: Optimizer, outer: Optimizer) -> None:
        self.optimizer, self.outer = optimizer, outer
        own, others = optimizer.param_groups, outer.param_groups
        self._shared = len(own) == len(others) and all(map(operator.is_, own, others))

    def state_dict(self) -> dict[str, Any]:
        return self.optimizer.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.optimizer.load_state_dict(state)
        if self._shared:  # as before: a scheduler sets the rates of both
            self.optimizer.param_groups = self.outer.param_groups


def _set(drawn: Drawn) -> None:
    for generator, state in drawn:
        generator.set_state(state)
