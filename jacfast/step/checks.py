"""What can be checked before the model runs; see `jacfast.forward_with_penalty`."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Literal, get_args

import torch
from torch import Tensor, nn

from jacfast.calling import (
    check_input,
    check_made,
    in_pieces,
    tree,
    with_batch_statistics,
    without_statistics,
)
from jacfast.checks import count, one_of, place
from jacfast.ops import checks
from jacfast.ops.lives import transformed
from jacfast.penalties.base import Penalty, check_penalty

if TYPE_CHECKING:
    from jacfast.step.step import Step

BatchNorm = Literal["refuse", "frozen", "coupled"]
BATCH_NORMS: tuple[str, ...] = get_args(BatchNorm)
WRAPPERS = {"DistributedDataParallel", "DataParallel"}


def check_options(options: "Step") -> None:
    """Check what can be checked without the model and x."""
    if options.penalty is not None:
        check_penalty(options.penalty)
    one_of("batch_norm", options.batch_norm, BATCH_NORMS)
    if options.precision not in (None, torch.bfloat16, torch.float16):
        raise ValueError(
            f"precision must be torch.bfloat16 or torch.float16; got {options.precision}"
        )
    checks.source("generator", options.generator)
    place("output", options.output)


def check(model: nn.Module, x: Tensor, y: Tensor | None, options: "Step") -> list[nn.Module]:
    """Raise a TypeError, ValueError or RuntimeError in words; return the model's modules."""
    penalty, at, batch_norm = options.penalty, options.at, options.batch_norm
    chunk = options.chunk_size
    if penalty is not None and (transformed() or torch.is_inference_mode_enabled()):
        raise RuntimeError(
            "forward_with_penalty calls torch.autograd.grad, which neither torch.func transforms "
            "nor forward-mode AD see, and which torch.inference_mode() forbids: call it outside, "
            "or with penalty=None (a WithPenalty, too) where no penalty is wanted"
        )
    check_options(options)
    modules = _model(model, options.layer)
    check_input(x)
    if penalty is not None and batch_norm != "coupled":
        _check_batch_statistics(modules, batch_norm, len(x))
    if y is not None:
        checks.class_index("y", y, len(x), x)
    if at is not None:
        check_input(at, name="at")
        if len(at) != len(x):
            raise ValueError(f"at must have as many samples as x ({len(x)}); got {len(at)}")
    if batch_norm == "coupled" and penalty is not None and penalty.subsample < 1:
        raise ValueError(
            "subsample must be 1 with batch_norm='coupled': a part of the batch has other "
            f"statistics; got {penalty.subsample}"
        )
    if batch_norm == "coupled" and chunk is not None and chunk < len(x):
        raise ValueError(
            f"chunk_size must be the whole batch with batch_norm='coupled'; got {chunk}"
        )
    return modules


def check_layer(layer: object) -> None:
    """Check that it may be the name of a submodule."""
    if layer is not None and not isinstance(layer, str):
        raise TypeError(f"layer must be the name of a submodule; got {layer!r}")


def skips_step(penalty: Penalty | None, step: Any) -> bool:
    """Say whether a step has no penalty; check both.

    A fraction of an epoch, say, is hardly ever a multiple of `every`: there would be no penalty.
    """
    if penalty is not None:
        check_penalty(penalty)
    if step is not None:
        one = isinstance(step, Tensor) and step.numel() == 1
        step = count("step", step.item() if one else step, 0)
    elif penalty is not None and penalty.every > 1:
        raise ValueError(f"step must be given for a penalty with every={penalty.every}; got None")
    return penalty is None or (step is not None and step % penalty.every > 0)


def check_kind(model: object) -> nn.Module:
    """Return the model: a module, and none of the wrappers that would not see the gradients."""
    if not isinstance(model, nn.Module):
        raise TypeError(
            "model must be a torch.nn.Module, whose parameters are known; got "
            f"{type(model).__name__} (for functions add penalty(logits, x) to the loss)"
        )
    kinds = kinds_of(model)
    check_no_pair(kinds)
    wrapper = kinds & WRAPPERS
    if wrapper:
        raise TypeError(
            f"model must not be a {wrapper.pop()}, which would not see the gradients: for "
            "DistributedDataParallel wrap jacfast.WithPenalty(model, penalty) in it; for others "
            "add penalty(logits, x) to the loss"
        )
    return model


def check_no_pair(kinds: set[str]) -> None:
    """Refuse a model, of these `kinds`, with a penalty where its logits alone are taken."""
    if "WithPenalty" in kinds:
        raise TypeError(
            "model must not be a WithPenalty, whose penalty would be in no loss: give its model "
            "(pair.model), or call the pair, which takes all options, and another penalty"
        )


def kinds_of(model: object) -> set[str]:
    """Return the names of the classes, and of those they come from, of what answers for a model.

    It, and what is in it whose outputs are its own: in a compiled module, in a parallel wrapper, at
    the end of a Sequential.
    """
    kinds, answers = set[str](), [model]
    for module in answers:
        own = {base.__name__ for base in type(module).__mro__}
        kinds |= own
        within = getattr(module, "_modules", {})
        if isinstance(module, nn.Sequential):
            answers += list(within.values())[-1:]
        else:
            held = "module" if own & WRAPPERS else "_orig_mod"
            answers += [within[held]] if held in within else []
    return kinds


def _model(model: object, layer: str | None) -> list[nn.Module]:
    """Return its modules: to find them is the most that there is to do here."""
    model = check_kind(model)
    modules = tree(model)
    if found := in_pieces(model, modules):
        raise TypeError(
            f"model must have whole parameters; {found}: with FSDP shard the pair as one, "
            "fully_shard(jacfast.WithPenalty(model, penalty)), or add penalty(logits, x) to the "
            "loss; tensor-parallel layers have no second derivative"
        )
    check_made(modules)
    if any(p is not None and p._backward_hooks for m in modules for p in m._parameters.values()):
        for name, parameter in model.named_parameters():
            check_hooks(parameter, name)
    if layer is not None and layer not in [name for name, _ in model.named_modules()]:
        names = ", ".join(name for name, _ in model.named_modules() if name)
        raise ValueError(f"layer must name a submodule, one of {names}; got {layer!r}")
    return modules


def check_hooks(parameter: Tensor, name: str) -> None:
    """Refuse a parameter with hooks, each of which would see a part of the gradient."""
    if parameter._backward_hooks:
        raise RuntimeError(
            f"parameters must have no gradient hooks, which would run more than once; {name} has "
            "one: add penalty(logits, x) to the loss instead"
        )


def _check_batch_statistics(modules: Iterable[nn.Module], batch_norm: str, samples: int) -> None:
    layers, without = with_batch_statistics(modules), without_statistics(modules)
    if without and samples != 1:
        raise RuntimeError(
            "batch_norm must be 'coupled' for a model with batch-norm without running statistics "
            "(track_running_stats=False), which couples the samples in eval mode as well and has "
            f"nothing to freeze; got {batch_norm!r} and {len(without)} such layers"
        )
    if layers and batch_norm == "refuse":
        raise RuntimeError(
            "batch_norm must be 'frozen' or 'coupled' for a model with batch-norm in training "
            "mode, whose samples have no Jacobian of their own (or put those layers in eval "
            f"mode); got 'refuse' and {len(layers)} such layers"
        )
