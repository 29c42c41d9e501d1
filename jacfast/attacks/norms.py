"""Lengths of the samples of a batch, and samples shortened to a length."""

import torch
from torch import Tensor

from jacfast.ops.checks import accumulator

# Entries that are cast to float64 at once: on a CPU so few that they stay in its caches; on a GPU,
# which is called for each part anew, as many as take 512 MB.
ENTRIES, GPU_ENTRIES = 2**20, 2**26
ONE = torch.ones((), device="cpu")


def lengths(x: Tensor, p: float = 2.0) -> Tensor:
    """Return ``||x_i||_p`` of each sample of x [N, ...], [N]: float32 for half types, else as x.

    The powers are summed in float64, where they neither overflow nor vanish: ``||x||`` can be
    beyond what float16 holds though no entry is, and its square beyond float32.
    """
    rows = x.flatten(1)
    entries = ENTRIES if x.device.type == "cpu" else GPU_ENTRIES
    size = [
        torch.linalg.vector_norm(part, p, dim=1, dtype=torch.float64)
        for part in rows.split(max(1, entries // rows.shape[1]))
    ]
    return (torch.cat(size) if len(size) > 1 else size[0]).to(accumulator(x.dtype))


def shorten(r: Tensor, most: float | Tensor, p: float = 2.0) -> Tensor:
    """Return r [N, ...] with each sample that is longer than `most` at that length.

    Of each sample its own, where it is [N, 1, ...].
    """
    most = most.flatten() if isinstance(most, Tensor) else most
    factor = torch.fmin(most / lengths(r, p), ONE)  # one also for 0 / 0, which fmin passes over
    return (r * factor.view(-1, *[1] * (r.dim() - 1))).to(r.dtype)
