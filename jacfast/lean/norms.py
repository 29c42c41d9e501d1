"""What runs in place of a call of a normalisation by rows: see `jacfast.lean.calls`."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from jacfast.calling.contexts import autocasts
from jacfast.calling.taken import taken
from jacfast.lean.known import dtype_of, needs_gradient
from jacfast.lean.mode import Lean
from jacfast.lean.normalise import Norm, Normalised
from jacfast.ops.checks import accumulator
from jacfast.ops.norm import compiled


def _normalised(
    lean: Lean, input: Tensor, weight: Tensor | None, bias: Tensor | None, norm: Norm
) -> Tensor | None:
    """Run a normalisation; None where it is not known to be one."""
    own = [t for t in (weight, bias) if t is not None]
    # what is no leaf could depend on x
    if not all(type(t) in (Tensor, nn.Parameter) and t.is_leaf for t in own):
        return None
    if autocasts(input.device.type):
        shape = input.shape[-norm.kept :] if norm.kept else (1, input.shape[1], 2)
        run = functools.partial(norm.few or norm.run, weight=weight, bias=bias)
        input = input.to(dtype_of(run, input.new_zeros(shape)))
    return Normalised.apply(input, weight, bias, norm)


def _layer(
    function: Callable,
    lean: Lean,
    input: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    cudnn_enable: bool = True,
) -> Tensor | None:
    if not isinstance(normalized_shape, Sequence):
        return None
    run = functools.partial(function, normalized_shape=normalized_shape, eps=eps)
    norm = Norm(run, lean.sweep, eps, kept=len(normalized_shape))
    # a copy that PyTorch would make in each sweep
    return _normalised(lean, input.contiguous(), weight, bias, norm)


def _rms(
    function: Callable,
    lean: Lean,
    input: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    eps: float | None = None,
) -> Tensor | None:
    def run(input: Tensor, weight: Tensor | None, bias: None) -> Tensor:
        return function(input, normalized_shape, weight, eps)

    if not isinstance(normalized_shape, Sequence):
        return None
    # PyTorch's own is of the dtype that it computes in
    added = torch.finfo(accumulator(input.dtype)).eps if eps is None else eps
    norm = Norm(run, lean.sweep, added, kept=len(normalized_shape), centred=False)
    return _normalised(lean, input, weight, None, norm)


def _group(
    function: Callable,
    lean: Lean,
    input: Tensor,
    num_groups: int,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    cudnn_enabled: bool = True,
) -> Tensor | None:
    run = functools.partial(function, num_groups=num_groups, eps=eps)
    return _normalised(lean, input, weight, bias, Norm(run, lean.sweep, eps, groups=num_groups))


def _instance(
    lean: Lean,
    input: Tensor,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor | None:
    """Run an instance-norm by statistics of its input; its running ones are written to as ever."""
    if not use_input_stats or input.dim() < 3:
        return None
    few = functools.partial(F.instance_norm, eps=eps)
    held = {"running_mean": running_mean, "running_var": running_var, "momentum": momentum}
    run = functools.partial(few, **held)
    norm = Norm(run, lean.sweep, eps, groups=input.shape[1], few=few)
    return _normalised(lean, input, weight, bias, norm)


def _torch_instance_norm(
    lean: Lean,
    input: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    use_input_stats: bool,
    momentum: float,
    eps: float,
    cudnn_enabled: bool,
) -> Tensor | None:
    held = running_mean, running_var, weight, bias
    return _instance(lean, input, *held, use_input_stats, momentum, eps)


def _of(call: Callable, *function: Callable) -> Callable[..., Tensor | None]:
    """Return `call`, of `function`, where the input is a usual one, and large enough."""

    def known(lean: Lean, input: Tensor, *args: Any, **kwargs: Any) -> Tensor | None:
        # the size first: small networks have many of these
        if not (lean.pays(input.numel()) and needs_gradient(input) and compiled(input)):
            return None
        return taken(call, *function, lean, input, *args, **kwargs)

    return known


NORMS: dict[Callable, Callable[..., Tensor | None]] = {
    **{function: _of(_layer, function) for function in (F.layer_norm, torch.layer_norm)},
    **{function: _of(_rms, function) for function in (F.rms_norm, torch.rms_norm)},
    **{function: _of(_group, function) for function in (F.group_norm, torch.group_norm)},
    F.instance_norm: _of(_instance),
    torch.instance_norm: _of(_torch_instance_norm),
}
