"""The fast way to a penalised step: logits and penalty from one node."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Unpack

import torch
from torch import Tensor, nn

from jacfast.calling import Arguments, logits_alone
from jacfast.calling.outputs import Output
from jacfast.penalties.base import Penalty, check_penalty
from jacfast.penalties.frobenius import Frobenius
from jacfast.penalties.learned import learned_by, with_learned
from jacfast.step.checks import BatchNorm, check_kind
from jacfast.step.options import CallOptions, ModuleOptions
from jacfast.step.step import Step, check_early
from jacfast.step.traced.backends import Backend


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
    batch_norm: BatchNorm = "refuse",
    chunk_size: int | None = None,
    generator: torch.Generator | None = None,
    output: Output = None,
    compiled: Backend | None = None,
    args: Sequence = (),
    kwargs: Mapping[str, Any] | None = None,
) -> tuple[Tensor, Tensor]:
    """Return ``(model(x), penalty)``, ready for ``(loss(logits) + lam * penalty).backward()``.

    The same value and gradient as ``logits = model(x)`` and ``penalty(logits, x, y)``, for less:
    the double backward happens inside, by lean layers, so that outside there is one node of first
    order. It works where double backward does not: in DistributedDataParallel (around
    `WithPenalty`), for models given to torch.compile (see `compiled`), beside a
    compiled loss. On a CPU small steps (2^26 products of weights and samples, and no layer of 2^18
    entries, from which on lean layers pay) cost their calls, and are plain double backward, whose
    graph stays outside; so are MLPs of piecewise linear activations with one projection, for a
    product less where they begin, unless the Gram matrix of the first weight (many samples, few
    outputs) is cheaper yet. The model is called as it stands, train or eval; each sample must be
    mapped by itself.

    It is called once, on the whole batch, unless it is certain that nobody could tell the
    difference (see `jacfast.calling.parts`), so it changes as by one ``model(x)``, and gives the
    logits of that. A second pass (`at`, `precision`, ``batch_norm="frozen"``) begins where the
    first one did, with the same buffers and dropout masks (but frozen batch-norm, which has the
    statistics that the first pass has left), and leaves no trace in the model; hooks run in it,
    too.

    With `compiled` the first call of its kind is recorded as two flat graphs of operations, one
    forward and one backward, which later calls run in place of the model's Python: the same draws,
    dropout masks, buffers and gradients, under the same seed. A call is of another kind, and is
    recorded anew, if shapes, dtypes, flags, attributes of modules, the penalty, autocast or the
    like are others (eight kinds at most); values of tensors are looked up in every call. What
    cannot be recorded (control flow that depends on values, hooks, attributes that change with
    every call, random numbers of Python) runs eager, with a warning that names it. What cannot be
    seen: globals and closures that the model's code reads are as they were at the recording.

    Args:
        model: maps x [N, ...] to logits [N, ...], or to a container of them (see `output`).
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
        chunk_size: samples at a time; default: all, but for networks of which
            `jacfast.calling.parts` knows every layer as many as keep the largest tensor below 16 MB
            on a CPU. A smaller one needs less memory; the model is called once per chunk, with the
            masks of one call in nn.Dropout, its kin of 1 to 3 dimensions and their functions (of
            two samples at least, where these are not the outermost in memory); what else is drawn
            (in attention, AlphaDropout, RReLU, noise, a checkpoint) each chunk draws by itself, and
            what the model makes of the number of samples (the scale of an LSQ quantiser's gradient)
            is of a chunk's.
        generator: source of all draws of the penalty, on the device of x.
        output: which part of what the model returns is the logits: a key, an index or the name of
            an attribute; default: ``logits``, or the only candidate.
        compiled: None: eager, but ``"auto"`` for a model given to torch.compile and inside a
            compiled function. ``"traced"``: the graphs as they are. ``"inductor"``: compiled, which
            takes seconds to minutes at the first call and its backward pass. ``"cudagraphs"``: on a
            GPU, captured, but traced, with a warning, if a tensor is elsewhere; it has not been run
            on one yet. ``"auto"``: traced on a GPU; on a CPU traced if most of the work is in large
            convolutions, else Inductor.
        args, kwargs: further arguments of the model, ``model(x, *args, **kwargs)``; tensors with N
            entries go along with the samples, and those that require grad receive their gradient: a
            state that an earlier call has returned, say.

    Returns:
        The logits, as the model returns them, and the penalty: a scalar, or [N] for a penalty with
        ``reduction="none"`` (float32, or float64 for such a model); it is 0 in a step without one.
        Both have their gradient in x and in the parameters, and the penalty in whatever it has
        learned itself (`Frobenius` ``weights`` with requires_grad, say).

    Raises:
        TypeError, ValueError: an argument is not as above (``"cudagraphs"`` for an x that is not on
            a GPU is one); the model, or a penalty of one's own, changes with every call, and
            ``chunk_size`` would cut the batch; the model returns rows of other shapes for its
            parts; it writes in place to large parameters, and there is a second pass. RuntimeError:
            the model depends on a tensor with requires_grad that is none of its parameters or
            arguments; a parameter has a gradient hook; the model is a parallel wrapper, or has
            parameters in pieces; batch-norm couples the samples; the call is under a torch.func
            transform.

    Source: the penalties' own; for the sweeps Etmann 2019, A Closer Look at Double Backpropagation.
    """
    options = Step(
        penalty, at, layer, step, precision, batch_norm, chunk_size, generator, output, compiled
    )
    samples = x.size(0) if isinstance(x, Tensor) and x.dim() else 0  # nested: len is an error
    arguments = Arguments(args, kwargs, samples=samples)
    return options(model, x, y, arguments)


class WithPenalty(nn.Module):
    """A model that returns ``(logits, penalty)``: `forward_with_penalty` as a module.

    For wrappers that must see the whole forward pass, as DistributedDataParallel does. Options and
    errors are those of `forward_with_penalty`; the parameters are those of ``model``, under that
    name, and those that are fields of the penalty (learned weights, say), under ``learned``.
    Attacks and measures get the logits: to them the penalty is 0, and nothing is drawn for it.
    """

    def __init__(
        self,
        model: nn.Module,
        penalty: Penalty | None = Frobenius(),
        **options: Unpack[ModuleOptions],
    ) -> None:
        super().__init__()
        check_early(penalty, options, tuple(ModuleOptions.__annotations__))
        self.model, self.options = check_kind(model), options
        self.penalty = penalty

    @property
    def penalty(self) -> Penalty | None:
        """The penalty, with what it has learned; another one may take its place."""
        return with_learned(self._penalty, self.learned)

    @penalty.setter
    def penalty(self, penalty: Penalty | None) -> None:
        if penalty is not None:
            check_penalty(penalty)
        self._penalty, self.learned = penalty, learned_by(penalty)

    def forward(
        self, x: Tensor, y: Tensor | None = None, **options: Unpack[CallOptions]
    ) -> tuple[Tensor, Tensor]:
        """Return the logits and the penalty.

        The options of this call (``penalty=None``, say, while its weight is 0; ``kwargs=`` of the
        model) come before the module's.
        """
        chosen: CallOptions = {"penalty": self.penalty, **self.options, **options}
        if logits_alone():
            chosen["penalty"] = None
        return forward_with_penalty(self.model, x, y, **chosen)

    if TYPE_CHECKING:  # a module's call returns Any

        def __call__(
            self, x: Tensor, y: Tensor | None = None, **options: Unpack[CallOptions]
        ) -> tuple[Tensor, Tensor]: ...
