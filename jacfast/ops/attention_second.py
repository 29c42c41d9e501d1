"""What the second derivative of attention does to each row of scores: see `attention_second`."""

import torch
from torch import Tensor

from jacfast.ops import lives

PLANES = 4


def attention_second(tile: Tensor) -> None:
    """Turn scores and cotangents into the factors of attention's second derivative, in place.

    Attention is ``O = P V`` with ``P = softmax(S)``; its first derivative, for a cotangent dO of O,
    has ``dP = dO V^T`` and ``dS = P * (dP - D)``, ``D = rowsum(P * dP)``. For cotangents A, B, C of
    the gradients in Q, K, V let ``E = scale (A K^T + Q B^T)`` and ``F = dO C^T``. Then, with
    ``e = rowsum(P * E)``, the products that make the second derivative are those with ::

        P,    W = P * (E - e),    dS = P * (dP - D),
        G = P * ((E - e) * (dP - D) + F - rowsum(P * ((E - e) * (dP - D) + F))).

    `jacfast.attention_tiles` has these products. A row whose scores are all -inf is masked whole:
    its P, and all else, is 0, whatever its dP, E and F are. NaN in any other row stays in that row.

    Args:
        tile: [4, R, S], contiguous, float32 or float64: the rows of S, dP, E and F; afterwards of
            P, dS, W and G. Row statistics have more digits than float32.

    Raises:
        TypeError: `tile` is not a float32 or float64 tensor.
        ValueError: it is not [4, R, S], or not contiguous.

    Source: the derivative of the backward pass of Dao et al., FlashAttention, algorithm 4.
    """
    if not isinstance(tile, Tensor):
        raise TypeError(f"tile must be a torch.Tensor; got {type(tile).__name__}")
    if tile.dtype not in (torch.float32, torch.float64):
        raise TypeError(f"tile must be float32 or float64; got {tile.dtype}")
    if tile.dim() != 3 or tile.shape[0] != PLANES:
        raise ValueError(f"tile must have shape [4, R, S]; got {list(tile.shape)}")
    if not tile.is_contiguous():
        raise ValueError(f"tile must be contiguous; got strides {tile.stride()}")
    if lives.native(tile) and lives.has("attention_second"):
        lives.call("attention_second", tile)
    else:
        tile.copy_(reference(tile))


def reference(tile: Tensor) -> Tensor:
    """Compute what `attention_second` writes, in PyTorch: the definition."""
    scores, dp, e, f = tile.to(torch.float64)
    masked = (scores == float("-inf")).all(dim=-1, keepdim=True)
    p = scores.softmax(dim=-1)
    dp = dp - (p * dp).sum(dim=-1, keepdim=True)
    e = e - (p * e).sum(dim=-1, keepdim=True)
    g = e * dp + f
    g = g - (p * g).sum(dim=-1, keepdim=True)
    return torch.stack([p, p * dp, p * e, p * g]).masked_fill(masked, 0).to(tile.dtype)


if lives.has("attention_second"):

    @torch.library.register_fake("jacfast::attention_second")
    def _(tile: Tensor) -> None:
        return None
