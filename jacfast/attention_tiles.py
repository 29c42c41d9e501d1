"""The second derivative of attention, recomputed in tiles of scores: memory linear in the tokens.

With ``S = scale Q K^T + mask``, ``P = softmax(S)`` and the cotangent dO of ``O = P V``, attention's
first derivative is dQ, dK, dV (`jacfast.fused_attention`). For cotangents A, B, C of these three,
the derivative of ``<A, dQ> + <B, dK> + <C, dV>`` is ::

    in dO:  W V + P C           in Q:  scale (G K + dS B)
    in V:   W^T dO              in K:  scale (G^T Q + dS^T A)

with P, dS, W and G of `jacfast.ops.attention_second`, from S, ``dP = dO V^T``,
``E = scale (A K^T + Q B^T)`` and ``F = dO C^T``. All products are matrix products.
"""

import itertools
import operator
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


def tiles(heads: int, rows: int, keys: int, causal: bool, shared: int = 1) -> Iterator[Tile]:
    """Yield tiles of at most `ENTRIES` scores (of one row at least), all of about one size.

    Heads that share keys go one by one.
    """
    at_once = max(1, ENTRIES // (rows * keys)) if shared == 1 else 1
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
    given = [g, q, k, v]
    for like, cotangent in zip((q, k, v), cotangents, strict=True):
        given.append(torch.zeros_like(like) if cotangent is None else cotangent)
    flat = [t.flatten(0, 1) for t in given]  # [heads, tokens, size]
    wide = torch.promote_types(q.dtype, torch.float32)
    of = [torch.zeros(t.shape, dtype=wide, device=t.device) for t in flat[:4]]
    (heads, rows, size), keys, shared = flat[1].shape, k.shape[2], q.shape[1] // k.shape[1]
    room = torch.empty(PLANES * max(ENTRIES, keys), dtype=wide, device=q.device)
    found = tiles(heads, rows, keys, causal, shared)
    for some, of_them in itertools.groupby(found, operator.attrgetter("heads")):
        theirs = slice(some.start // shared, -(-some.stop // shared))  # keys and values
        which = (some, some, theirs, theirs)
        do, q, k, v, a, b, c = (t[i].to(wide) for t, i in zip(flat, which + which[1:], strict=True))
        left = torch.cat([a, q], -1).mul_(scale)  # side by side, so that E is one product
        right = torch.cat([k, b], -1)
        of_g, of_q, of_k, of_v = (t[i] for t, i in zip(of, which, strict=True))
        for tile in of_them:
            own, seen = (slice(None), tile.rows), (slice(None), slice(tile.keys))
            shape = (PLANES, q.shape[0], tile.rows.stop - tile.rows.start, tile.keys)
            planes = room[: torch.Size(shape).numel()].view(shape)
            _fill(planes, left[own], right[seen], do[own], v[seen], c[seen])
            _mask(planes[0], tile, mask, causal, g.shape[1])
            attention_second(planes.flatten(1, 2))
            p, ds, w, gs = planes
            torch.bmm(w, v[seen], out=of_g[own]).baddbmm_(p, c[seen])
            torch.bmm(gs, k[seen], out=of_q[own]).baddbmm_(ds, b[seen])
            aq = left[own]
            of_k[seen].baddbmm_(gs.mT, aq[..., size:]).baddbmm_(ds.mT, aq[..., :size])
            of_v[seen].baddbmm_(w.mT, do[own])
    of[1].mul_(scale)
    of_g, of_q, of_k, of_v = (
        t.view(like.shape).to(like.dtype) for t, like in zip(of, given, strict=False)
    )
    return of_g, of_q, of_k, of_v


def _fill(planes: Tensor, aq: Tensor, kb: Tensor, do: Tensor, v: Tensor, c: Tensor) -> None:
    """Compute the scores, dP, E and F of a tile."""
    size = aq.shape[-1] // 2
    torch.bmm(aq[..., size:], kb[..., :size].mT, out=planes[0])
    torch.bmm(do, v.mT, out=planes[1])
    torch.bmm(aq, kb.mT, out=planes[2])
    torch.bmm(do, c.mT, out=planes[3])


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
