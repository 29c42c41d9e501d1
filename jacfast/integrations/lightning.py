"""A Lightning callback that adds the penalty to the loss of an unchanged LightningModule."""

import copy
import functools
import operator
import time
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn

from jacfast.checks import place
from jacfast.integrations.common import as_schedule, check, check_learned, is_due, jacobian_norm
from jacfast.penalties.base import Penalty
from jacfast.penalties.frobenius import Frobenius
from jacfast.portion import Share, within
from jacfast.step import penalised
from jacfast.training.schedule import Schedule

try:
    from lightning.pytorch import Callback
except ModuleNotFoundError:  # the same code under its older name
    try:
        from pytorch_lightning import Callback  # type: ignore[assignment, no-redef]
    except ModuleNotFoundError as error:
        raise ImportError(
            "jacfast.integrations.lightning needs Lightning: run pip install 'jacfast[lightning]'"
        ) from error

GENERATOR = "jacobian/generator"  # its place in a checkpoint
SHARDED = {"FSDPStrategy", "DeepSpeedStrategy", "ModelParallelStrategy"}


class JacobianPenalty(Callback):
    """``Trainer(callbacks=[JacobianPenalty(0.03)])`` adds ``lam * penalty`` to every training loss.

    The training step must call the penalised model once; that call computes the penalty, too
    (`jacfast.penalised`), at the cost of `jacfast.forward_with_penalty`. Accumulated,
    clipped, scaled, synchronised: what Lightning does to the loss, it does to both. A step whose
    weight is 0 runs as if there were no callback.

    With several devices each computes the penalty of its samples; the projections are drawn for the
    samples of all, dealt out as Lightning's DistributedSampler deals them, so that the steps of
    processes with one seed are those of one process with the whole batch.

    Logged for each batch: ``jacobian/lam``; where there is a penalty also ``jacobian/penalty`` (as
    it is added, `every` times as large with ``every > 1``), ``jacobian/seconds``, the host time of
    the training step (forward and penalty, not the backward pass), and, of a `Frobenius` without
    root and weights, ``jacobian/norm``, the root mean square of ``||J(x_i)||_F``, estimated if n is
    no "exact". Each process logs what it has of its own samples.

    Args:
        schedule: the weight lam: a number, or a `Schedule` of ``trainer.global_step``. That counts
            optimiser steps, from 0, not batches: with ``accumulate_grad_batches=4`` four batches
            in a row have the same step, in the schedule as in ``every=``. It goes on from a
            checkpoint.
        penalty: see `jacfast.penalties`.
        model: name of the submodule whose call is penalised, as in ``named_modules()``; default:
            the LightningModule itself, called as ``self(x)``.
        labels: maps the batch to labels [N] int64, for penalties that need them.
        options: layer, precision, batch_norm, chunk_size, generator, output of
            `forward_with_penalty`; argument of `penalised`. A generator goes on from a checkpoint.

    Raises:
        TypeError, ValueError: an argument is not as above (some are seen in the first step only);
            the Trainer has two such callbacks; the module has ``automatic_optimization=False``: its
            backward passes are its own, and the penalty could not join them; the strategy shards
            the parameters (FSDP, DeepSpeed); what the penalty learns, or keeps in buffers, is not
            the module's.
        RuntimeError: the training step calls the model not at all, or twice. And what
            `forward_with_penalty` raises. After any exception the module is as it was.
    """

    def __init__(
        self,
        schedule: float | Schedule,
        penalty: Penalty = Frobenius(),
        model: str | None = None,
        labels: Callable[[Any], Tensor] = operator.itemgetter(1),
        **options: Any,
    ) -> None:
        self.schedule = as_schedule(schedule)
        place("argument", options.get("argument"))
        check(penalty, {name: value for name, value in options.items() if name != "argument"})
        if model is not None and not isinstance(model, str):
            raise TypeError(f"model must be the name of a submodule; got {type(model).__name__}")
        if not callable(labels):
            raise TypeError(f"labels must be a function of the batch; got {type(labels).__name__}")
        self.penalty, self.model, self.labels, self.options = penalty, model, labels, options
        self._restore: Callable[[], None] | None = None

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Wrap the module's training step."""
        if stage != "fit":
            return
        if sum(isinstance(callback, JacobianPenalty) for callback in trainer.callbacks) > 1:
            raise ValueError(
                "callbacks must hold one JacobianPenalty: two would call the model in each other; "
                "got several"
            )
        self._unwrap()
        step, own = pl_module.training_step, pl_module.__dict__.get("training_step")

        pl_module.training_step = _Step(functools.partial(self._step, trainer, pl_module), step)

        def restore() -> None:
            if own is None:
                pl_module.__dict__.pop("training_step", None)
            else:
                pl_module.training_step = own

        self._restore = restore

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        """Refuse what only now is settled: manual optimisation, sharded or stray parameters."""
        check_learned(self.penalty, pl_module)
        if not pl_module.automatic_optimization:
            raise ValueError(
                "automatic_optimization must be True: with manual optimisation the training step "
                "calls backward itself, before this callback could add the penalty; use "
                "jacfast.forward_with_penalty there. Got False"
            )
        sharded = {base.__name__ for base in type(trainer.strategy).__mro__} & SHARDED
        if sharded:
            raise ValueError(
                "strategy must leave the parameters whole, as one device or DDP do; got "
                f"{sharded.pop()}"
            )

    def teardown(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Put the training step back."""
        self._unwrap()

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        """Put the training step back: Lightning calls no teardown after an exception."""
        self._unwrap()

    def on_save_checkpoint(self, trainer: Any, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        """Note where the generator is; not by a `state_dict`: of such callbacks none may be two."""
        if (generator := self.options.get("generator")) is not None:
            checkpoint[GENERATOR] = generator.get_state()

    def on_load_checkpoint(self, trainer: Any, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        """Let the generator go on from there."""
        if (generator := self.options.get("generator")) is not None and GENERATOR in checkpoint:
            generator.set_state(checkpoint[GENERATOR].cpu())

    def _unwrap(self) -> None:
        if self._restore is not None:
            self._restore()
            self._restore = None

    def _step(self, trainer: Any, pl_module: Any, call: Callable[[], Any], args: tuple) -> Any:
        step = trainer.global_step
        lam = self.schedule(step)
        _log(pl_module, "lam", lam)
        if not is_due(self.penalty, lam, step):
            return call()
        start = time.perf_counter()
        y = self._labels(args[0]) if self.penalty.needs_labels else None
        target = self._target(pl_module)
        share = Share(trainer.global_rank, trainer.world_size, dealt=True)  # DistributedSampler's
        with (
            within(share),
            penalised(target, y, penalty=self.penalty, step=step, **self.options) as held,
        ):
            output = call()
        loss = output.get("loss") if isinstance(output, Mapping) else output
        if loss is None:  # a batch that the module skips, or an error that Lightning words
            return output
        value = self._value(held)
        total = loss + lam * value
        _log(pl_module, "penalty", value.detach())
        norm = jacobian_norm(self.penalty, value.detach())
        if norm is not None:
            _log(pl_module, "norm", norm)
        _log(pl_module, "seconds", time.perf_counter() - start)
        return {**output, "loss": total} if isinstance(output, Mapping) else total

    def _labels(self, batch: Any) -> Tensor:
        try:
            return self.labels(batch)
        except Exception as error:
            raise ValueError(
                f"labels must map the batch to its labels [N]; got {type(error).__name__}: {error} "
                f"of a {type(batch).__name__}"
            ) from error

    def _target(self, pl_module: nn.Module) -> nn.Module:
        """Return the module that is penalised, looked up late: hooks may have replaced it."""
        if self.model is None:
            return pl_module
        try:
            return pl_module.get_submodule(self.model)
        except AttributeError as error:
            names = ", ".join(name for name, _ in pl_module.named_children())
            raise ValueError(
                f"model must name a submodule of the LightningModule ({names}, or one of theirs); "
                f"got {self.model!r}"
            ) from error

    def _value(self, held: Any) -> Tensor:
        try:
            return held.penalty
        except RuntimeError as error:
            called = "self(x)" if self.model is None else f"self.{self.model}(x)"
            raise RuntimeError(
                f"training_step must call the penalised model, {called}, once; it did not. If it "
                "calls a submodule, name that: JacobianPenalty(..., model=NAME)"
            ) from error


class _Step:
    """The training step of a module with the penalty; copies of the module have the `plain` one."""

    def __init__(self, penalised: Callable[[Callable[[], Any], tuple], Any], plain: Any) -> None:
        functools.update_wrapper(self, plain)
        # Lightning looks one wrapper deep for the arguments: let it find what it found before
        self.__wrapped__ = getattr(plain, "__wrapped__", plain)
        self.penalised, self.plain = penalised, plain

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.penalised(functools.partial(self.plain, *args, **kwargs), args)

    def __reduce__(self) -> tuple:
        return copy.copy, (self.plain,)  # a bound method is copied, and pickled, with its object


def _log(pl_module: Any, name: str, value: Tensor | float) -> None:
    # a mean over batches weighs them by size, which Lightning wants where it sees no batch
    pl_module.log(f"jacobian/{name}", value, on_step=True, on_epoch=False, batch_size=1)
