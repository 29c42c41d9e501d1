"""Attention with a second derivative, whichever kernel the layer would have run."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.attention.bias import causal_lower_right
from torch.utils.checkpoint import checkpoint

from jacfast import Frobenius, InputGradient, forward_with_penalty, frobenius_penalty
from jacfast.calling import Twice
from jacfast.evaluation import curvature
from jacfast.training import deep_defense_penalty
from tests.nets import draw

MASKS = {
    "none": dict,
    "causal": lambda: {"is_causal": True},
    "booleans": lambda: {"attn_mask": draw(5, 6) > -0.3},
    "a row of none": lambda: {"attn_mask": torch.arange(5)[:, None] > torch.zeros(6)},
    "numbers": lambda: {"attn_mask": draw(5, 6, seed=4).float()},
    "dropout": lambda: {"dropout_p": 0.5},
    "scale": lambda: {"scale": 0.1},
}


@pytest.mark.parametrize("rounds", [False, True], ids=["", "autocast"])
@pytest.mark.parametrize("groups", [False, True], ids=["", "groups"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("mask", MASKS)
def test_the_same_to_the_bit_as_the_backend(mask, dtype, groups, rounds):
    heads = 2 if groups else 4
    shapes = (2, 4, 5, 8), (2, heads, 6, 8), (2, heads, 6, 7)
    q, k, v = (draw(*s, seed=i).to(dtype).requires_grad_() for i, s in enumerate(shapes))
    options = MASKS[mask]() | {"enable_gqa": groups}
    if mask == "numbers":
        options["attn_mask"] = options["attn_mask"].to(dtype)
    found = []
    for backend in (sdpa_kernel(SDPBackend.MATH), Twice()):
        torch.manual_seed(0)
        with torch.autocast("cpu", torch.bfloat16, enabled=rounds), backend:
            found.append(F.scaled_dot_product_attention(q, k, v, **options))
    assert found[0].dtype == found[1].dtype
    assert torch.equal(*found)


def test_masks_of_other_kinds_are_left_to_pytorch():
    """A mask that is only described, as this one is, has no entries to add."""
    q, k, v = (draw(2, 4, n, 8, seed=s).requires_grad_() for s, n in enumerate((5, 6, 6)))
    want = F.scaled_dot_product_attention(q, k, v, attn_mask=causal_lower_right(5, 6))
    with Twice():
        got = F.scaled_dot_product_attention(q, k, v, attn_mask=causal_lower_right(5, 6))
    assert torch.equal(got, want)
    below = torch.ones(5, 6).tril(1).bool()
    torch.testing.assert_close(got, F.scaled_dot_product_attention(q, k, v, attn_mask=below))


class Heads(nn.Module):
    """Attention of two heads as models call it."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(4, 12)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).unflatten(2, (3, 2, 2)).permute(2, 0, 3, 1, 4)
        return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)


class SelfAttention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.MultiheadAttention(4, 2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x, x, x, need_weights=False)[0]


class Checkpointed(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return checkpoint(self.inner, x, use_reentrant=False)


def layer() -> nn.Module:
    return nn.TransformerEncoderLayer(4, 2, 6, dropout=0.0, batch_first=True)


BLOCKS = {
    "function": Heads,
    "nn.MultiheadAttention": SelfAttention,
    "nn.TransformerEncoderLayer": layer,
    "in eval mode": lambda: layer().eval(),
    "checkpointed": lambda: Checkpointed(Heads()),
    "checkpointed layer": lambda: Checkpointed(layer()),
}


def net(name: str, dtype=torch.float64) -> tuple[nn.Module, Tensor, Tensor]:
    torch.manual_seed(0)
    body = [nn.Linear(3, 4), BLOCKS[name](), nn.Flatten(), nn.Linear(24, 5)]
    model = nn.Sequential(*body).to(dtype)
    return model, torch.randn(4, 6, 3, dtype=dtype), torch.arange(4)


def gradients(loss: Tensor, model: nn.Module) -> list[Tensor]:
    return list(torch.autograd.grad(loss, list(model.parameters()), materialize_grads=True))


@pytest.mark.parametrize("penalty", [Frobenius("exact"), InputGradient()])
@pytest.mark.parametrize("name", BLOCKS)
def test_a_penalised_step(name, penalty):
    model, x, y = net(name)
    logits, value = forward_with_penalty(model, x, y, penalty=penalty)
    got = gradients(F.cross_entropy(logits, y) + value, model)
    leaf = x.clone().requires_grad_()
    with sdpa_kernel(SDPBackend.MATH):
        logits = model(leaf)
        loss = F.cross_entropy(logits, y) + penalty(logits, leaf, y)
        torch.testing.assert_close(got, gradients(loss, model))
    assert torch.backends.cuda.flash_sdp_enabled()


def test_who_else_differentiates_twice():
    model, x, y = net("function")
    direction = torch.ones_like(x)
    for of in (
        lambda: curvature(model, x, y, direction),
        lambda: gradients(deep_defense_penalty(model, x, y, steps=2), model),
    ):
        got = of()
        with sdpa_kernel(SDPBackend.MATH):
            torch.testing.assert_close(got, of())


class Segments(nn.Module):
    """Sums of pairs of neurons, by an operation without a second derivative."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(18, 10)

    def forward(self, x: Tensor) -> Tensor:
        neurons, pairs = self.layer(x.flatten(1)).tanh().flatten(), torch.full((5 * len(x),), 2)
        return torch.segment_reduce(neurons, "sum", lengths=pairs).view(len(x), 5)


def test_what_the_one_line_way_says():
    """In a checkpoint, where the operands cannot be read twice, the remedy is named.

    Also after a call of the same operations outside of one, which have a second derivative.
    """
    model, x, _ = net("function", torch.float32)
    x.requires_grad_()
    frobenius_penalty(model(x), x).backward()
    loss = frobenius_penalty(checkpoint(model, x, use_reentrant=False), x)
    with pytest.raises(RuntimeError, match=r"second derivatives .*sdpa_kernel\(SDPBackend.MATH\)"):
        loss.backward()


@pytest.mark.parametrize("fast", [True, False])
def test_operations_without_a_second_derivative(fast):
    model, x = Segments(), torch.randn(4, 18, requires_grad=True)
    if fast:
        _, value = forward_with_penalty(model, x)
    else:
        value = frobenius_penalty(model(x), x)
    with pytest.raises(RuntimeError, match="segment_reduce") as caught:
        value.backward()
    assert "attention" not in str(caught.value)
