"""The second derivative of attention, recomputed in tiles of scores: memory linear in the tokens.

With ``S = scale Q K^T + mask``, ``P = softmax(S)`` and the cotangent dO of ``O = P V``, attention's
first derivative is dQ, dK, dV (`jacfast.fused_attention`). For cotangents A, B, C of these three,
the derivative of ``<A, dQ> + <B, dK> + <C, dV>`` is ::

    in dO:  W V + P C           in Q:  scale (G K + dS B)
    in V:   W^T dO              in K:  scale (G^T Q + dS^T A)

with P, dS, W and G of `jacfast.ops.attention_second`, from S, ``dP = dO V^T``,
``E = scale (A K^T + Q B^T)`` and ``F = dO C^T``. All products are matrix products.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from jacfast.ops.attention_second import PLANES, attention_second

# Scores of a tile: 1.5 MB in float32.
ENTRIES = 3 << 17

SCHEMA = (
    "(Tensor g, Tensor q, Tensor k, Tensor v, Tensor? mask, Tensor? a, Tensor? b, Tensor? c,"
    " bool causal, float scale) -> (Tensor, Tensor, Tensor, Tensor)"
)
torch.library.define("jacfast::attention_tiles", SCHEMA)


def second(
    g: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor | None,
    a: Tensor | None,
    b: Tensor | None,
    c: Tensor | None,
    causal: bool,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the cotangents of dO, Q, K and V.

    Args:
        g: dO [N, H, L, Ev], the cotangent of attention's output.
        q, k, v: [N, H, L, E], [N, H', S, E] and [N, H', S, Ev]; H' divides H: heads that follow
            each other share keys and values.
        mask: what is added to the scores, of any shape that can be spread to [N, H, L, S].
        a, b, c: cotangents of dQ, dK and dV, in their shapes; None stands for zeros.
        causal: query i sees the keys up to i only.
        scale: of the scores.

    Returns:
        In the shapes and dtypes of g, q, k and v; sums are in float32 for half types.
    """
    with torch.no_grad(), torch.autocast(q.device.type, enabled=False):
        return _in_tiles(g, q, k, v, mask, (a, b, c), causal, scale)


torch.library.impl("jacfast::attention_tiles", "CompositeExplicitAutograd")(second)


@torch.library.register_fake("jacfast::attention_tiles")
def _(g, q, k, v, mask, a, b, c, causal, scale):  # type: ignore[no-untyped-def]
    return g.new_empty(g.shape), q.new_empty(q.shape), k.new_empty(k.shape), v.new_empty(v.shape)


class Tile(NamedTuple):
    """Scores that are there at one time: of some heads whole, or of some rows of one head."""

    heads: slice
    rows: slice
    keys: int  # the first so many: with a causal mask the rows see no others


def tiles(heads: int, rows: int, keys: int, causal: bool) -> Iterator[Tile]:
    """Yield tiles of at most `ENTRIES` scores (of one row at least), all of about one size."""
    at_once = max(1, ENTRIES // (rows * keys))
    blocks = -(-rows // max(1, ENTRIES // keys)) if at_once == 1 else 1
    height = -(-rows // blocks)
    for head in range(0, heads, at_once):
        for row in range(0, rows, height):
            end = min(row + height, rows)
            seen = min(keys, end) if causal else keys
            yield Tile(slice(head, min(head + at_once, heads)), slice(row, end), seen)


def _in_tiles(
    g: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor | None,
    cotangents: tuple[Tensor | None, Tensor | None, Tensor | None],
    causal: bool,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    a, b, c = (
        torch.zeros_like(t) if cotangent is None else cotangent
        for t, cotangent in zip((q, k, v), cotangents, strict=True)
    )
    shared = q.shape[1] // k.shape[1]  # heads of queries that share one of keys
    given, size = _flat(g), q.shape[-1]
    # side by side, so that E is one product
    left = torch.cat([_flat(a), _flat(q)], -1).mul_(scale)
    right = torch.cat([_flat(k, shared), _flat(b, shared)], -1)
    values, of_values = _flat(v, shared), _flat(c, shared)
    (heads, rows, _), keys = left.shape, right.shape[1]
    of_g, of_q = torch.empty_like(given), left.new_empty(heads, rows, size)
    of_k, of_v = right.new_zeros(heads, keys, size), torch.zeros_like(values)
    room = left.new_empty(PLANES * max(ENTRIES, keys))
    for tile in tiles(heads, rows, keys, causal):
        own, seen = (tile.heads, tile.rows), (tile.heads, slice(tile.keys))
        do, aq, kb = given[own], left[own], right[seen]
        vs, cs = values[seen], of_values[seen]
        planes = room[: PLANES * do.shape[0] * do.shape[1] * tile.keys]
        planes = planes.view(PLANES, *do.shape[:2], tile.keys)
        scores, dp, e, f = planes
        torch.bmm(aq[..., size:], kb[..., :size].mT, out=scores)
        torch.bmm(do, vs.mT, out=dp)
        torch.bmm(aq, kb.mT, out=e)
        torch.bmm(do, cs.mT, out=f)
        _mask(scores, tile, mask, causal, q.shape[1])
        attention_second(planes.flatten(1, 2))
        p, ds, w, gs = planes
        torch.bmm(w, vs, out=of_g[own]).baddbmm_(p, cs)
        torch.bmm(gs, kb[..., :size], out=of_q[own]).baddbmm_(ds, kb[..., size:])
        of_k[seen].baddbmm_(gs.mT, aq[..., size:]).baddbmm_(ds.mT, aq[..., :size])
        of_v[seen].baddbmm_(w.mT, do)
    of_q.mul_(scale)
    return _back(of_g, g), _back(of_q, q), _back(of_k, k, shared), _back(of_v, v, shared)


def _flat(t: Tensor, shared: int = 1) -> Tensor:
    """Return t [N, H, tokens, size] as [heads, tokens, size], in float32 at least."""
    wide = t.to(torch.promote_types(t.dtype, torch.float32))
    wide = wide if shared == 1 else wide.repeat_interleave(shared, 1)
    return wide.flatten(0, 1).contiguous()


def _back(t: Tensor, like: Tensor, shared: int = 1) -> Tensor:
    """Return t [heads, tokens, size] in the shape and dtype of `like`."""
    if shared > 1:
        t = t.unflatten(0, (-1, shared)).sum(1)
    return t.view(like.shape).to(like.dtype)


def _mask(scores: Tensor, tile: Tile, mask: Tensor | None, causal: bool, heads: int) -> None:
    """Add the mask, which can be spread to [N, heads, L, S], to the scores of a tile."""
    if mask is not None:
        numbers = torch.arange(tile.heads.start, tile.heads.stop, device=mask.device)
        few = mask[(None,) * (4 - mask.dim())]
        few = few[:, :, tile.rows if few.shape[2] > 1 else slice(None)]
        few = few[..., : tile.keys if few.shape[3] > 1 else 1]
        sample = numbers // heads if few.shape[0] > 1 else torch.zeros_like(numbers)
        head = numbers % heads if few.shape[1] > 1 else torch.zeros_like(numbers)
        scores += few[sample, head]
    if causal and tile.rows.start < tile.keys:
        last = scores[..., tile.rows.start :]
        later = torch.ones(last.shape[1:], dtype=torch.bool, device=scores.device).triu(1)
        last.masked_fill_(later, float("-inf"))
