"""A Hugging Face Trainer whose loss has the penalty."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any

from torch import Tensor, nn

from jacfast.calling import Draws
from jacfast.integrations.common import as_schedule, check, check_learned, is_due, jacobian_norm
from jacfast.penalties.base import Penalty
from jacfast.penalties.frobenius import Frobenius
from jacfast.portion import Share, within
from jacfast.step.attach import Around
from jacfast.step.beginning import beginning
from jacfast.step.step import Step
from jacfast.training.schedule import Schedule

try:
    from transformers import Trainer
except ImportError as error:
    raise ImportError(
        "jacfast.integrations.transformers needs transformers and accelerate: run "
        "pip install 'jacfast[transformers]'"
    ) from error


class JacobianTrainer(Trainer):
    """A ``Trainer`` that descends its loss plus ``lam * penalty``; evaluation is left alone.

    The penalty is of the logits in one floating-point input of the model. It takes a forward pass
    of its own, without the labels, beside the one that the loss comes from: with the same buffers
    and dropout masks, and without a trace in the model. With gradient accumulation it is the mean
    over the micro-batches, and over the processes, whichever way the Trainer normalises its loss.

    At logging steps, besides ``loss`` (with the penalty): ``jacobian/lam``, the weight of the last
    step; if there was a penalty since the last time ``jacobian/penalty``, its mean over batches (as
    it is added, `every` times as large with ``every > 1``), and, of a `Frobenius` without root and
    weights, ``jacobian/norm``, the root mean square of ``||J(x_i)||_F``.

    Args:
        args, kwargs: those of ``transformers.Trainer``.
        jacobian_schedule: the weight lam: a number, or a `Schedule` of ``state.global_step``, which
            counts optimiser steps from 0 (not micro-batches) and goes on from a checkpoint.
        jacobian_penalty: see `jacfast.penalties`. If it needs labels, they are ``inputs["labels"]``
            [N] int64.
        jacobian_input: name of the input, [N, ...] floating point: ``"pixel_values"``,
            ``"inputs_embeds"``.
        jacobian_options: layer, precision, batch_norm, chunk_size, generator, output of
            `forward_with_penalty`. A generator is in no checkpoint; the global ones are.

    Raises:
        TypeError, ValueError: an argument is not as above; the run is under FSDP or DeepSpeed; the
            batch has no such input; what the penalty learns, or keeps in buffers, is not the
            model's. And what `forward_with_penalty` raises.
    """

    def __init__(
        self,
        *args: Any,
        jacobian_schedule: float | Schedule,
        jacobian_penalty: Penalty = Frobenius(),
        jacobian_input: str = "pixel_values",
        jacobian_options: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self.jacobian_schedule = as_schedule(jacobian_schedule)
        self.jacobian_penalty, self.jacobian_input = jacobian_penalty, jacobian_input
        if not isinstance(jacobian_input, str):
            kind = type(jacobian_input).__name__
            raise TypeError(f"jacobian_input must be the name of an input; got {kind}")
        if jacobian_options is not None and not isinstance(jacobian_options, Mapping):
            kind = type(jacobian_options).__name__
            raise TypeError(f"jacobian_options must be options by name; got {kind}")
        self.jacobian_options = dict(jacobian_options or {})
        check(jacobian_penalty, self.jacobian_options)
        if self.is_fsdp_enabled or self.is_deepspeed_enabled:
            raise ValueError(
                "JacobianTrainer must not run under FSDP or DeepSpeed, which keep the parameters "
                "in pieces; use DistributedDataParallel (torchrun alone)"
            )
        self._lam: float | None = None  # of the last step, once there was one
        self._total: Tensor | None = None  # of the penalties since the last log, and how many
        self._count = 0

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        """Return the Trainer's loss, in training plus the penalty."""
        given = dict(inputs)  # the Trainer may take the labels out of its own
        step, lam, seen = self.state.global_step, 0.0, None
        if model.training:
            self._lam = lam = self.jacobian_schedule(step)
            if is_due(self.jacobian_penalty, lam, step):
                whole = self.accelerator.unwrap_model(model)
                check_learned(self.jacobian_penalty, whole)
                own = self.jacobian_options.get("generator")
                again = beginning(whole, self.jacobian_penalty, [own])
                seen = whole, again, Draws(self.args.device)
        found: Any = super().compute_loss(
            model, inputs, return_outputs=return_outputs, num_items_in_batch=num_items_in_batch
        )
        if seen is None:
            return found
        penalty = self._penalty(*seen, given, step)
        value = penalty.detach()
        self._total = value if self._total is None else self._total + value
        self._count += 1
        if self._is_scaled(num_items_in_batch):  # then nobody divides by the micro-batches later
            penalty = penalty / getattr(self, "current_gradient_accumulation_steps", 1)
        if not return_outputs:
            return found + lam * penalty
        loss, outputs = found
        return loss + lam * penalty, outputs

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log, in training with the means since the last time."""
        if "loss" in logs and self._lam is not None:
            logs["jacobian/lam"] = self._lam
            if self._total is not None:  # on every process or on none: all are at the same step
                mean = self.accelerator.gather(self._total / self._count).mean()
                logs["jacobian/penalty"] = mean.item()
                norm = jacobian_norm(self.jacobian_penalty, mean)
                if norm is not None:
                    logs["jacobian/norm"] = norm.item()
        if "loss" in logs or "train_loss" in logs:  # the latter at the end of the training
            self._total, self._count = None, 0
        super().log(logs, start_time)

    def _penalty(
        self,
        model: nn.Module,
        again: Callable[[], AbstractContextManager],
        draws: Draws,
        inputs: dict[str, Any],
        step: int,
    ) -> Tensor:
        """Return the penalty, the model being `again` what it was before the loss drew `draws`."""
        name, penalty, options = self.jacobian_input, self.jacobian_penalty, self.jacobian_options
        x = inputs.get(name)
        if not isinstance(x, Tensor) or not x.dtype.is_floating_point:
            raise ValueError(
                "jacobian_input must name a floating-point tensor among the inputs "
                f"({', '.join(inputs)}); got {name!r}"
            )
        dropped = {name, "labels", *self.label_names}
        others = {key: value for key, value in inputs.items() if key not in dropped}
        # The wrappers' hooks see the loss's forward pass; the gradients of both meet in the leaves,
        # before the hooks that synchronise them.
        y = inputs.get("labels") if penalty.needs_labels else None
        call = Step(penalty, step=step, around=draws.again, **options)
        share = Share(self.args.process_index, self.args.world_size)
        with again(), within(share):
            _, value = call(model, x, y, Around((), {**others, name: x}, name))
        return value

    def _is_scaled(self, num_items_in_batch: Any) -> bool:
        """Say whether training_step takes the loss as it is, as it decides itself."""
        told = getattr(self, "loss_is_scaled_for_ga", None)  # not there in every version
        if told is not None:
            return told
        by_model = self.model_accepts_loss_kwargs and num_items_in_batch is not None
        return bool(by_model or self.compute_loss_func is not None)
