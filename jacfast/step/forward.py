"""The fast way to a penalised step: logits and penalty from one node."""

import contextlib

import torch
from torch import Tensor, nn

from jacfast.calling import eager, in_eval_mode
from jacfast.memory import advise
from jacfast.ops.checks import accumulator
from jacfast.penalties.base import Penalty
from jacfast.penalties.squares import Frobenius
from jacfast.step.checks import check, with_batch_statistics
from jacfast.step.run import Run

# Samples at a time, on a CPU, for models with convolutions: their activations stay in the caches,
# and below the 32 MB beyond which each tensor is new memory from the system.
CHUNK = 128
CONVS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


def forward_with_penalty(
    model: nn.Module,
    x: Tensor,
    y: Tensor | None = None,
    *,
    penalty: Penalty | None = Frobenius(),
    at: Tensor | None = None,
    layer: str | None = None,
    step: int | None = None,
    precision: torch.dtype | None = None,
    batch_norm: str = "refuse",
    chunk: int | None = None,
    generator: torch.Generator | None = None,
) -> tuple[Tensor, Tensor]:
    """Return ``(model(x), penalty)``, ready for ``(loss(logits) + lam * penalty).backward()``.

    The same value and gradient as ``logits = model(x)`` and ``penalty(logits, x, y)``, for less:
    the double backward happens inside, by lean layers, in chunks, so that outside there is one node
    of first order. It works where double backward does not: in DistributedDataParallel (around
    `WithPenalty`), for models given to torch.compile (they run as they were before), beside a
    compiled loss. The model is called as it stands, train or eval; each sample must be mapped by
    itself.

    Args:
        model: maps x [N, ...] to logits [N, ...].
        x: [N, ...], floating point. If it requires grad, it receives the gradient of both outputs.
        y: labels [N] int64, for the penalties that need them.
        penalty: which, how many projections, on which share of the batch (``subsample=``) and in
            how many steps (``every=``); see `jacfast.penalties`. None: none this time, and 0.
        at: [N, ...], where to evaluate the penalty instead of at x (adversarial examples, say); it
            costs a forward pass more.
        layer: name of the submodule (as in ``model.named_modules()``) whose output takes the place
            of the logits in the penalty, for Jacobians of inner layers.
        step: number of the training step, for a penalty with ``every > 1``.
        precision: torch.bfloat16 or torch.float16: sweeps of the penalty in it, by autocast, at the
            cost of a forward pass more in it; the logits keep theirs.
        batch_norm: what to do if there is batch-norm with batch statistics, in which samples have
            no Jacobian of their own: ``"refuse"`` it; ``"frozen"``: running statistics for the
            penalty, in a forward pass of its own; ``"coupled"``: differentiate the coupled batch.
        chunk: samples at a time; default: 128 on a CPU for a model with convolutions, else all.
            Dropout masks depend on it.
        generator: source of all draws of the penalty, on the device of x.

    Returns:
        The logits, as the model returns them, and the penalty, a scalar (float32, or float64 for
        such a model); it is 0 in a step without one.

    Raises:
        TypeError, ValueError: an argument is not as above. RuntimeError: the model depends on a
            tensor with requires_grad that is none of its parameters; a parameter has a gradient
            hook; the model is a parallel wrapper; batch-norm couples the samples; the call is under
            a torch.func transform.

    Source: the penalties' own; for the sweeps Etmann 2019, A Closer Look at Double Backpropagation.
    """
    if torch.compiler.is_compiling():  # a graph break, and all of it in eager mode
        plain = torch._dynamo.disable(_forward_with_penalty)
    else:
        plain = _forward_with_penalty
    return plain(model, x, y, penalty, at, layer, step, precision, batch_norm, chunk, generator)


def _forward_with_penalty(
    model, x, y, penalty, at, layer, step, precision, batch_norm, chunk, generator
) -> tuple[Tensor, Tensor]:
    check(model, x, y, penalty, at, layer, step, precision, batch_norm, chunk)
    if penalty is None or (step is not None and step % penalty.every):
        logits = model(x)
        return logits, logits.new_zeros((), dtype=accumulator(logits.dtype))
    frozen = with_batch_statistics(model) if batch_norm == "frozen" else []
    chunk = chunk or _chunk(model, x, batch_norm)
    run = Run(model, penalty, layer, chunk, batch_norm == "coupled", generator)
    less = advise(f"less memory is needed with a smaller chunk; it was {chunk} of {len(x)} samples")
    if at is None and precision is None and not frozen:
        with eager(), less:
            logits, value = run(x, y, whole=True)
    else:
        logits = model(x)
        with eager(), less, in_eval_mode(frozen), _in(precision, x.device.type):
            _, value = run(x if at is None else at, y, whole=False)
    return logits, value if penalty.every == 1 else penalty.every * value


class WithPenalty(nn.Module):
    """A model that returns ``(logits, penalty)``: `forward_with_penalty` as a module.

    For wrappers that must see the whole forward pass, as DistributedDataParallel does. `options`
    are those of `forward_with_penalty`; the parameters are those of ``model``, under that name.
    """

    def __init__(self, model: nn.Module, penalty: Penalty = Frobenius(), **options) -> None:
        super().__init__()
        self.model, self.penalty, self.options = model, penalty, options

    def forward(self, x: Tensor, y: Tensor | None = None, **options) -> tuple[Tensor, Tensor]:
        """Return the logits and the penalty.

        The options of this call (``penalty=None``, say, while its weight is 0) come before the
        module's.
        """
        options = {"penalty": self.penalty} | self.options | options
        return forward_with_penalty(self.model, x, y, **options)


def _chunk(model: nn.Module, x: Tensor, batch_norm: str) -> int:
    convolves = any(isinstance(module, CONVS) for module in model.modules())
    small = x.device.type == "cpu" and convolves and batch_norm != "coupled"
    return CHUNK if small else len(x)


def _in(precision: torch.dtype | None, device: str) -> contextlib.AbstractContextManager:
    """Return the context of a forward pass in `precision`."""
    if precision is None:
        return contextlib.nullcontext()
    return torch.autocast(device, dtype=precision)
