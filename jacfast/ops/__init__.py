"""The native ops: typed wrapper, PyTorch reference, fake kernel and derivative, one file each.

`deepfool_distance` has no kernel: it is made of `row_norm`.
"""

from jacfast.ops.activation import activation_first, activation_second
from jacfast.ops.attention_second import attention_second
from jacfast.ops.deepfool_candidate import Nearest, deepfool_candidate
from jacfast.ops.deepfool_distance import deepfool_distance
from jacfast.ops.deepfool_step import deepfool_step
from jacfast.ops.halfspace_projection import halfspace_projection
from jacfast.ops.max_pool import max_pool, max_pool_gather, max_pool_scatter
from jacfast.ops.norm import norm_first, norm_second
from jacfast.ops.orthonormal_cotangents import orthonormal_cotangents
from jacfast.ops.row_norm import row_norm

__all__ = [
    "Nearest",
    "activation_first",
    "activation_second",
    "attention_second",
    "deepfool_candidate",
    "deepfool_distance",
    "deepfool_step",
    "halfspace_projection",
    "max_pool",
    "max_pool_gather",
    "max_pool_scatter",
    "norm_first",
    "norm_second",
    "orthonormal_cotangents",
    "row_norm",
]


def __dir__() -> list[str]:
    return sorted(__all__)
