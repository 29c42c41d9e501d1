"""The one-line way has a second derivative through attention that ran in a fused kernel."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

import jacfast
from jacfast.fused_attention import is_fused
from jacfast.graph import nodes
from tests import public
from tests.nets import relative_error


def by_hand(q, k, v, attn_mask=None, is_causal=False, scale=None, enable_gqa=False):
    """Attention written out, entry by entry of the formula."""
    if enable_gqa:
        k, v = (t.repeat_interleave(q.shape[1] // k.shape[1], 1) for t in (k, v))
    scores = torch.einsum("bhle,bhse->bhls", q, k) * (scale or q.shape[-1] ** -0.5)
    allowed = torch.ones(scores.shape[-2:], dtype=torch.bool)
    if is_causal:
        allowed = allowed.tril()
    if attn_mask is not None and attn_mask.dtype == torch.bool:
        allowed = allowed & attn_mask
    elif attn_mask is not None:
        scores = scores + attn_mask
    weights = torch.where(allowed, (scores - scores.amax(-1, keepdim=True).detach()).exp(), 0)
    total = weights.sum(-1, keepdim=True)
    return (weights / torch.where(total == 0, 1, total)) @ v


class Attention(nn.Module):
    """x [N, 6, 8] through one attention of two heads (one of keys and values, if they share)."""

    def __init__(self, keys: int = 6, **options) -> None:
        super().__init__()
        self.attend, self.keys, self.options = F.scaled_dot_product_attention, keys, options
        self.heads = 1 if options.get("enable_gqa") else 2
        self.q, self.k = nn.Linear(8, 8), nn.Linear(8, 4 * self.heads)
        self.v, self.out = nn.Linear(8, 4 * self.heads), nn.Linear(48, 3)

    def forward(self, x: Tensor) -> Tensor:
        q = self.q(x).unflatten(2, (2, 4)).transpose(1, 2)
        part = x[:, : self.keys]
        k, v = (f(part).unflatten(2, (self.heads, 4)).transpose(1, 2) for f in (self.k, self.v))
        options = {
            key: o.to(x.dtype) if isinstance(o, Tensor) and o.is_floating_point() else o
            for key, o in self.options.items()
        }
        return self.out(self.attend(q, k, v, **options).transpose(1, 2).flatten(1).tanh())


def masked(rows: tuple[int, ...] = ()) -> Tensor:
    torch.manual_seed(1)
    mask = torch.rand(6, 6) > 0.4
    mask[:, 0] = True
    mask[list(rows)] = False
    return mask


CASES = {
    "plain": {},
    "causal": {"is_causal": True},
    "bool mask": {"attn_mask": masked()},
    "rows masked whole": {"attn_mask": masked((2, 5))},
    "float mask": {"attn_mask": torch.linspace(-2, 2, 36).view(6, 6)},
    "scale": {"scale": 0.9},
    "shared keys": {"enable_gqa": True},
    "fewer keys": {"keys": 4},
}


def gradients(model: nn.Module, x: Tensor, n="exact") -> Tensor:
    """Return the gradient of a loss with the penalty, by the one-line way."""
    x = x.detach().requires_grad_()
    logits = model(x)
    loss = logits.square().sum() + jacfast.frobenius_penalty(logits, x, n)
    return torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(model.parameters()))])


@pytest.mark.parametrize("samples", [3, 40])  # batched backward passes, and looped ones
@pytest.mark.parametrize("case", CASES)
def test_it_is_the_gradient_of_attention_written_out(case, samples):
    torch.manual_seed(0)
    model = Attention(**CASES[case])
    x = torch.randn(samples, 6, 8)
    assert any(is_fused(node) for node in nodes(model(x)))
    truth = copy.deepcopy(model).double()
    truth.attend = by_hand
    want = gradients(truth, x.double())
    assert relative_error(gradients(model, x).double(), want) < 2e-5
    assert relative_error(gradients(copy.deepcopy(model).double(), x.double()), want) < 1e-12


@pytest.mark.parametrize("train", [True, False])
def test_a_transformer_layer(train):
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
    model = nn.Sequential(layer, nn.Flatten(), nn.Linear(48, 3)).double().train(train)
    x = torch.randn(4, 6, 8, dtype=torch.float64)
    with sdpa_kernel(SDPBackend.MATH):
        want = gradients(model, x)
    assert relative_error(gradients(model, x), want) < 1e-12


def test_in_bfloat16_it_is_as_near_as_the_backend_by_operations():
    torch.manual_seed(0)
    model = Attention()
    x = torch.randn(8, 6, 8)
    truth = copy.deepcopy(model).double()
    truth.attend = by_hand
    want = gradients(truth, x.double())
    half = copy.deepcopy(model).bfloat16()
    with sdpa_kernel(SDPBackend.MATH):
        theirs = relative_error(gradients(half, x.bfloat16()).double(), want)
    assert relative_error(gradients(half, x.bfloat16()).double(), want) < 1.5 * theirs


def test_first_derivatives_are_left_to_the_kernel():
    """The node's own result is used again once the penalty is there."""
    torch.manual_seed(0)
    model, x = Attention(), torch.randn(3, 6, 8, requires_grad=True)
    logits = model(x)
    (want,) = torch.autograd.grad(logits.sum(), x, retain_graph=True)
    jacfast.frobenius_penalty(logits, x)
    (again,) = torch.autograd.grad(logits.sum(), x)
    assert torch.equal(again, want)


@pytest.mark.parametrize("name", public.PENALTIES)
def test_every_penalty_has_it(name):
    torch.manual_seed(0)
    model, x = Attention().double(), torch.randn(4, 6, 8, dtype=torch.float64, requires_grad=True)
    y, penalty = torch.tensor([0, 1, 2, 0]), getattr(jacfast, name)()
    parameters, found = list(model.parameters()), []
    for backend in (SDPBackend.MATH, SDPBackend.FLASH_ATTENTION):
        torch.manual_seed(1)
        with sdpa_kernel(backend):
            value = penalty(model(x), x, y)
        found.append(torch.autograd.grad(value, parameters, materialize_grads=True))
    for want, got in zip(*found, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-12)
