"""The options of `jacfast.forward_with_penalty`, for type checkers."""

from collections.abc import Mapping, Sequence
from typing import Any, TypedDict

import torch
from torch import Tensor

from jacfast.calling.outputs import Output
from jacfast.penalties.base import Penalty
from jacfast.step.checks import BatchNorm
from jacfast.step.traced.backends import Backend


class Options(TypedDict, total=False):
    """Those that `jacfast.penalised` passes on."""

    at: Tensor | None
    layer: str | None
    step: int | None
    precision: torch.dtype | None
    batch_norm: BatchNorm
    chunk_size: int | None
    generator: torch.Generator | None
    output: Output
    compiled: Backend | None


class ModuleOptions(Options, total=False):
    """Those of `jacfast.WithPenalty`: also the model's further arguments."""

    args: Sequence[Any]
    kwargs: Mapping[str, Any] | None


class CallOptions(ModuleOptions, total=False):
    """Those of a call of `jacfast.WithPenalty`: also another penalty."""

    penalty: Penalty | None
