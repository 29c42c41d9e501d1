"""Attention's second derivative in tiles, against autograd through attention written out."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.memory import Peak
from jacfast import attention_tiles
from jacfast.fused_attention import is_fused
from jacfast.graph import Graph
from jacfast.second import watched
from tests.nets import draw, relative_error
from tests.test_fused_attention import by_hand


def written_out(tensors, mask, causal, scale):
    """The derivative of <A, dQ> + <B, dK> + <C, dV> in dO, Q, K and V, by autograd in float64."""
    g, q, k, v, *cotangents = (None if t is None else t.double() for t in tensors)
    leaves = [t.clone().requires_grad_() for t in (g, q, k, v)]
    g, *operands = leaves
    mask = mask if mask is None or mask.dtype == torch.bool else mask.double()
    gqa = q.shape[1] != k.shape[1]
    out = by_hand(*operands, mask, causal, scale, gqa)
    first = torch.autograd.grad(out, operands, g, create_graph=True)
    total = sum((c * d).sum() for c, d in zip(cotangents, first, strict=True) if c is not None)
    return torch.autograd.grad(total, leaves, materialize_grads=True)


def tensors(shape=(2, 3, 7, 5, 4), shared=1, dtype=torch.float64):
    """dO, Q, K, V, A, B, C of [samples, heads, queries, keys, size], heads sharing keys."""
    samples, heads, rows, keys, size = shape
    of_q, of_k = (samples, heads, rows, size), (samples, heads // shared, keys, size)
    shapes = (of_q, of_q, of_k, of_k, of_q, of_k, of_k)
    return [draw(*s, seed=i).to(dtype) for i, s in enumerate(shapes)]


def run(given, mask=None, causal=False, scale=0.4):
    g, q, k, v, *cotangents = given
    return torch.ops.jacfast.attention_tiles(g, q, k, v, mask, *cotangents, causal, scale)


def check(given, mask=None, causal=False, scale=0.4, within=1e-12):
    want = written_out(given, mask, causal, scale)
    for got, one, like in zip(run(given, mask, causal, scale), want, given[:4], strict=True):
        assert got.shape == like.shape
        assert got.dtype == like.dtype
        assert relative_error(got.double(), one) < within


def bias(*shape: int) -> Tensor:
    return draw(*shape, seed=9).masked_fill(draw(*shape, seed=8) > 0.8, float("-inf"))


MASKS = {
    "each": (2, 3, 7, 5),
    "of samples": (2, 1, 7, 5),
    "of heads": (1, 3, 7, 5),
    "padding": (2, 1, 1, 5),
    "two dimensions": (7, 5),
    "of rows": (7, 1),
    "of keys": (5,),
    "one": (1, 1, 1, 1),
}


# Scores at a time: of all heads, of two or one, of some rows, of less than one.
@pytest.fixture(params=[1 << 18, 75, 12, 1])
def entries(request, monkeypatch):
    monkeypatch.setattr(attention_tiles, "ENTRIES", request.param)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("shape", [(2, 3, 7, 5, 4), (2, 3, 5, 7, 4), (1, 1, 1, 1, 1)])
def test_plain_and_causal(entries, shape, causal):
    check(tensors(shape), causal=causal)


@pytest.mark.parametrize("mask", MASKS)
def test_masks(entries, mask):
    given = bias(*MASKS[mask]).clamp(-1e9) if mask in ("of rows", "one") else bias(*MASKS[mask])
    check(tensors(), given)


def test_rows_that_are_masked_whole(entries):
    allowed = bias(7, 5) > 0
    allowed[[0, 4]] = False
    mask = torch.zeros(7, 5).masked_fill(~allowed, float("-inf"))
    found = run(tensors(), mask)
    for got, want in zip(found, written_out(tensors(), allowed, False, 0.4), strict=True):
        assert relative_error(got, want) < 1e-12
    of_g, of_q, *_ = found
    assert not of_g[:, :, [0, 4]].any()
    assert not of_q[:, :, [0, 4]].any()


@pytest.mark.parametrize("shared", [2, 4])
def test_shared_keys(entries, shared):
    check(tensors((2, 4, 5, 6, 3), shared), causal=True)
    check(tensors((2, 4, 5, 6, 3), shared), bias(2, 4, 5, 6))


@pytest.mark.parametrize("missing", [(4,), (5,), (6,), (4, 5), (5, 6), (4, 6)])
def test_cotangents_that_nobody_asked_for(missing):
    given = [None if i in missing else t for i, t in enumerate(tensors())]
    check(given)


def test_what_is_not_contiguous(entries):
    """As the views of one projection are, and a gradient that comes in from a sum."""
    wide = draw(2, 7, 3, 3, 4)
    q, k, v = wide.permute(2, 0, 3, 1, 4)
    given = [draw(2, 3, 1, 1).expand(2, 3, 7, 4), q, k, v, *(t.mT.contiguous().mT for t in (q, k))]
    check([*given, v])


@pytest.mark.parametrize(("dtype", "within"), [(torch.bfloat16, 4e-3), (torch.float16, 5e-4)])
def test_half_types_add_up_in_float32(dtype, within):
    check(tensors((2, 3, 40, 30, 8), dtype=dtype), bias(40, 30).to(dtype), within=within)


def test_nothing_is_rounded_under_autocast():
    given = tensors(dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        found = run(given)
    for one, other in zip(found, run(given), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("shared", [1, 2])
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("sizes", [(5, 7, 9), (3, 100, 40), (1, 3000, 2000), (2, 1, 500_000)])
def test_tiles_hold_every_row_once(sizes, causal, shared):
    heads, rows, keys = sizes
    seen = torch.zeros(heads, rows)
    for tile in attention_tiles.tiles(heads, rows, keys, causal, shared):
        seen[tile.heads, tile.rows] += 1
        part = seen[tile.heads, tile.rows]
        assert part.numel() * tile.keys <= attention_tiles.ENTRIES or part.numel() == 1
        assert tile.keys == (min(keys, tile.rows.stop) if causal else keys)
    assert (seen == 1).all()


def test_memory_grows_with_the_tokens(monkeypatch):
    monkeypatch.setattr(attention_tiles, "ENTRIES", 1 << 12)
    peaks = []
    for tokens in (256, 512, 1024):
        g, q, k, v, *cotangents = tensors((1, 2, tokens, tokens, 8), dtype=torch.float32)
        with Peak() as peak:
            attention_tiles.second(g, q, k, v, None, *cotangents, False, 0.3)
        peaks.append(peak.peak)
    assert peaks[2] < 2.2 * peaks[1] < 4.6 * peaks[0]
    assert peaks[2] < 4 * 1024 * 1024  # a matrix of scores


def test_registration():
    op = torch.ops.jacfast.attention_tiles.default
    for mask in (None, bias(7, 5)):
        for shared in (1, 3):
            g, q, k, v, *cotangents = tensors(shared=shared)
            torch.library.opcheck(op, (g, q, k, v, mask, *cotangents, False, 0.3))


def first(q, k, v, g, **options):
    """The first derivative of a fused kernel, as a penalty takes it."""
    out = F.scaled_dot_product_attention(q, k, v, **options)
    assert is_fused(out.grad_fn)
    with watched(Graph(out), q):
        return torch.autograd.grad(out, (q, k, v), g, create_graph=True)


OPTIONS = {
    "plain": {},
    "causal": {"is_causal": True},
    "mask": {"attn_mask": draw(3, 5, seed=4) > -0.5},
    "scale": {"scale": 0.2},
    "shared keys": {"enable_gqa": True},
}


@pytest.mark.parametrize("name", OPTIONS)
def test_derivatives_of_every_order(name):
    """The second one in tiles, the third one by operations."""
    options = OPTIONS[name]
    heads = 1 if "enable_gqa" in options else 2
    shapes = ((1, 2, 3, 4), (1, heads, 5, 4), (1, heads, 5, 4), (1, 2, 3, 4))
    leaves = [draw(*s, seed=i).double().requires_grad_() for i, s in enumerate(shapes)]
    assert torch.autograd.gradcheck(lambda *t: first(*t, **options), leaves)
    assert torch.autograd.gradgradcheck(lambda *t: first(*t, **options), leaves)


def test_only_some_operands_want_a_gradient():
    for wanted in ((0,), (1,), (2,), (0, 2)):
        q, k, v, g = (draw(1, 2, 4, 3, seed=i).double() for i in range(4))
        leaves = [(q, k, v)[i].requires_grad_() for i in wanted] + [g.requires_grad_()]
        found = {}
        for kind in ("fused", "written out"):
            out = F.scaled_dot_product_attention(q, k, v) if kind == "fused" else by_hand(q, k, v)
            with watched(Graph(out), q):
                grads = torch.autograd.grad(out, leaves[:-1], g, create_graph=True)
            total = sum(d.square().sum() for d in grads)
            found[kind] = torch.autograd.grad(total, leaves, materialize_grads=True)
        for one, other in zip(*found.values(), strict=True):
            torch.testing.assert_close(one, other)
