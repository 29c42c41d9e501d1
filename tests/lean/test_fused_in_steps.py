"""Attention in the penalised step runs in PyTorch's kernels, wherever it has a derivative there."""

import copy
import re

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.attention.bias import causal_lower_right

from jacfast import Frobenius, attention_tiles, forward_with_penalty
from jacfast.fused_attention import is_fused
from jacfast.graph import nodes
from jacfast.lean import attention as lean_attention
from jacfast.lean import tables
from jacfast.lean.attention import attention
from jacfast.step import run
from tests.nets import draw, relative_error


@pytest.fixture(autouse=True)
def _several_tiles(monkeypatch):
    monkeypatch.setattr(attention_tiles, "ENTRIES", 40)
    monkeypatch.setattr(lean_attention, "LEAST", 0)


class Heads(nn.Module):
    """x [N, 6, 8] through an attention of four heads of two, then five logits."""

    def __init__(self, keys: int = 6, groups: int = 1, learned: tuple[int, ...] = (), **options):
        super().__init__()
        self.keys, self.heads, self.options = keys, 4 // groups, options
        self.qkv = nn.Linear(8, 8 + 2 * 2 * self.heads)
        self.out = nn.Linear(8, 5)
        self.bias = nn.Parameter(draw(*learned).float()) if learned else None
        self.fused: list[bool] | None = []

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        options = dict(self.options)
        if self.bias is not None:
            options["attn_mask"] = self.bias
        mask = options.get("attn_mask")
        if isinstance(mask, Tensor) and mask.is_floating_point():
            options["attn_mask"] = mask.to(q.dtype)
        return F.scaled_dot_product_attention(q, k, v, **options)

    def forward(self, x: Tensor) -> Tensor:
        sizes = [8, 2 * self.heads, 2 * self.heads]
        q, k, v = (t.unflatten(-1, (-1, 2)).transpose(-3, -2) for t in self.qkv(x).split(sizes, -1))
        found = self.attend(q, k[..., : self.keys, :], v[..., : self.keys, :])
        if self.fused is not None:
            self.fused.append(any(is_fused(node) for node in nodes(found)))
        return self.out(found.transpose(-3, -2).flatten(-2).tanh()).mean(-2)


class InFive(Heads):
    """The same with another dimension in front."""

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return super().attend(q[:, None], k[:, None], v[:, None])[:, 0]


class InThree(Heads):
    """The same, sample by sample."""

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        one = super().attend
        return torch.stack([one(*each) for each in zip(q, k, v, strict=True)])


def padding() -> Tensor:
    """Of each sample other keys are there; of the last one none."""
    return (torch.arange(6) < torch.tensor([[6], [3], [0]]))[:, None, None]


FUSED = {
    "plain": Heads,
    "causal": lambda: Heads(is_causal=True),
    "causal, fewer keys": lambda: Heads(keys=4, is_causal=True),
    "fewer keys": lambda: Heads(keys=3),
    "booleans": lambda: Heads(attn_mask=draw(6, 6) > -0.5),
    "padding": lambda: Heads(attn_mask=padding()),
    "numbers": lambda: Heads(attn_mask=draw(6, 6)),
    "numbers of heads": lambda: Heads(attn_mask=draw(1, 4, 6, 6)),
    "numbers in three dimensions": lambda: Heads(attn_mask=draw(4, 6, 6)),
    "scale": lambda: Heads(scale=1.3),
    "shared keys": lambda: Heads(groups=2, enable_gqa=True),
    "one key for all": lambda: Heads(groups=4, enable_gqa=True, is_causal=True),
    "five dimensions": lambda: InFive(attn_mask=draw(6, 6)),
    "three dimensions": lambda: InThree(attn_mask=draw(4, 6, 6)),
    "three dimensions, shared keys": lambda: InThree(groups=2, enable_gqa=True),
}
BY_OPERATIONS = {
    "a mask that is learned": lambda: Heads(learned=(4, 6, 6)),
    "dropout": lambda: Heads(dropout_p=0.4),
    "dropout, causal": lambda: Heads(dropout_p=0.4, is_causal=True),
}


def gradients(model: nn.Module, x: Tensor, fast: bool) -> Tensor:
    torch.manual_seed(0)
    model = copy.deepcopy(model)
    if fast:
        logits, value = forward_with_penalty(model, x, penalty=Frobenius("exact"))
    else:
        x = x.detach().requires_grad_()
        with sdpa_kernel(SDPBackend.MATH):
            logits = model(x)
        value = Frobenius("exact")(logits, x)
    loss = logits.square().sum() + value
    found = torch.autograd.grad(loss, list(model.parameters()), materialize_grads=True)
    return torch.cat([g.flatten() for g in found])


@pytest.mark.parametrize("name", [*FUSED, *BY_OPERATIONS])
def test_the_gradient_is_that_of_double_backward(name):
    torch.manual_seed(0)
    model = (FUSED | BY_OPERATIONS)[name]()
    x = torch.randn(3, 6, 8)
    want = gradients(copy.deepcopy(model).double(), x.double(), fast=False)
    assert relative_error(gradients(copy.deepcopy(model).double(), x.double(), True), want) < 1e-12
    theirs = relative_error(gradients(model, x, fast=False), want)
    assert relative_error(gradients(model, x, fast=True), want) < 2 * theirs


@pytest.mark.parametrize("name", [*FUSED, *BY_OPERATIONS])
def test_which_way_it_runs(name):
    model = (FUSED | BY_OPERATIONS)[name]()
    forward_with_penalty(model, torch.randn(3, 6, 8))
    assert model.fused == [name in FUSED]


def test_few_scores_run_by_operations(monkeypatch):
    """Those of all heads count: 3 samples of 4 heads of 6 x 6, or of 6 x 5."""
    for least, keys, fused in ((432, 6, True), (433, 6, False), (360, 5, True), (361, 5, False)):
        monkeypatch.setattr(lean_attention, "LEAST", least)
        model = Heads(keys=keys)
        forward_with_penalty(model, torch.randn(3, 6, 8))
        assert model.fused == [fused]


def test_on_a_gpu_it_runs_by_operations(monkeypatch):
    """Its kernels' nodes have not been seen there."""
    monkeypatch.setattr(run, "training", lambda _: tables.training(torch.device("cuda")))
    model = Heads()
    forward_with_penalty(model, torch.randn(3, 6, 8))
    assert model.fused == [False]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", ["plain", "causal", "numbers", "shared keys"])
def test_half_types(name, dtype):
    torch.manual_seed(0)
    model, x = FUSED[name](), torch.randn(3, 6, 8)
    want = gradients(copy.deepcopy(model).double(), x.double(), fast=False)
    half = copy.deepcopy(model).to(dtype)
    theirs = relative_error(gradients(half, x.to(dtype), fast=False), want)
    assert relative_error(gradients(half, x.to(dtype), fast=True), want) < 1.5 * theirs


def test_under_autocast():
    torch.manual_seed(0)
    model, x = Heads(), torch.randn(3, 6, 8)
    want = gradients(copy.deepcopy(model).double(), x.double(), fast=False)
    with torch.autocast("cpu", torch.bfloat16):
        theirs = relative_error(gradients(model, x, fast=False), want)
        assert relative_error(gradients(model, x, fast=True), want) < 1.5 * theirs


class Blocks(nn.Module):
    """PyTorch's own layers, with their masks."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        options = {"dropout": 0.0, "batch_first": True}
        self.kind = kind
        if "decoder" in kind:
            self.inner = nn.TransformerDecoderLayer(8, 2, 16, **options)
        elif "encoder" in kind:
            layer = nn.TransformerEncoderLayer(8, 2, 16, norm_first="first" in kind, **options)
            self.inner = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        else:
            self.inner = nn.MultiheadAttention(8, 2, **options, add_bias_kv="bias_kv" in kind)
        self.out = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        later = torch.ones(6, 6, dtype=torch.bool).triu(1)
        if "decoder" in self.kind:
            found = self.inner(x, x.flip(1), tgt_mask=later)
        elif "encoder" in self.kind:
            found = self.inner(x, mask=later, is_causal="causal" in self.kind)
        elif "one sample" in self.kind:
            found = torch.stack([self.inner(s, s, s, need_weights=False)[0] for s in x])
        else:
            options = {"need_weights": "weights" in self.kind}
            if "padded" in self.kind:
                options["key_padding_mask"] = later[[4, 2, 3]]
            found, weights = self.inner(x, x, x, **options)
            if weights is not None:
                found = found + weights.sum(-1, keepdim=True) * weights.square().sum()
        return self.out(found.tanh()).mean(1)


KINDS = (
    "attention",
    "attention, padded",
    "attention, weights",
    "attention, one sample at a time",
    "attention, bias_kv",
    "encoder",
    "encoder, causal",
    "encoder, norm first",
    "decoder",
)


@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_layers_of_pytorch(kind, train):
    torch.manual_seed(0)
    model = Blocks(kind).double().train(train)
    x = torch.randn(3, 6, 8, dtype=torch.float64)
    want = gradients(model, x, fast=False)
    assert relative_error(gradients(model, x, fast=True), want) < 1e-12


@pytest.mark.parametrize("shapes", [(0, 6, 6), (2, 0, 6), (2, 6, 0)])
def test_empty(shapes):
    """As PyTorch gives it: no samples, no queries, no keys."""
    samples, rows, keys = shapes
    q, k, v = (torch.randn(samples, 2, n, 4, requires_grad=True) for n in (rows, keys, keys))
    want = F.scaled_dot_product_attention(q, k, v)
    got = attention(q, k, v)
    assert got.shape == want.shape
    assert torch.equal(got, want)


def test_what_is_no_usual_call_is_pytorchs():
    q, k, v = (torch.randn(2, 3, 6, 4, requires_grad=True) for _ in range(3))
    for mask in (causal_lower_right(6, 6), draw(2, 1, 1, 6, 6).float() > 0):
        given = (q[:, None], k[:, None], v[:, None]) if mask.dim() == 5 else (q, k, v)
        want = F.scaled_dot_product_attention(*given, attn_mask=mask)
        torch.testing.assert_close(attention(*given, attn_mask=mask), want)
    flat = [t[0, 0] for t in (q, k, v)]
    torch.testing.assert_close(attention(*flat), F.scaled_dot_product_attention(*flat))
    with pytest.raises(RuntimeError) as own:
        F.scaled_dot_product_attention(q, k[..., :3], v)
    with pytest.raises(RuntimeError, match=re.escape(str(own.value))):
        attention(q, k[..., :3], v)


@pytest.mark.filterwarnings("error::UserWarning")  # that the step runs eager
@pytest.mark.parametrize("name", ["plain", "padding", "shared keys", "dropout"])
def test_recorded(name):
    """As two graphs, in which the second derivative is one operation."""
    torch.manual_seed(0)
    model, x = (FUSED | BY_OPERATIONS)[name](), torch.randn(3, 6, 8)
    model.fused = None  # a change in every call is not recorded
    found = []
    for compiled in (None, "traced", "traced"):  # the third call runs what the second recorded
        torch.manual_seed(1)
        logits, value = forward_with_penalty(model, x, penalty=Frobenius(1), compiled=compiled)
        loss = logits.square().sum() + value
        found.append(torch.autograd.grad(loss, list(model.parameters())))
    for again in found[1:]:
        for one, other in zip(again, found[0], strict=True):
            torch.testing.assert_close(one, other)
