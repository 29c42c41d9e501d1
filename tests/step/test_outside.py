"""Where nothing was lean, autograd's own graph stays outside; else there is one node."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.checkpoint import checkpoint

from jacfast import Frobenius, InputGradient, penalised
from jacfast.graph import nodes
from jacfast.lean import attention
from tests.nets import relative_error
from tests.step.networks import build
from tests.step.steps import LAM, ROUNDING, assert_same, fast, gradient, plain, step

pytestmark = pytest.mark.parametrize("size", ["small"])


def attend(x):
    """Attention of the entries of a sample, each a token of one number."""
    return F.scaled_dot_product_attention(x[:, :, None], x[:, :, None], x[:, :, None])[..., 0]


class Residual(nn.Module):
    """x + tanh(linear(layer-norm(x))), and more around it."""

    def __init__(self, kind: str = "", width: int = 6) -> None:
        super().__init__()
        self.kind, self.norm, self.linear = kind, nn.LayerNorm(width), nn.Linear(width, width)

    def inner(self, x):
        return self.linear(self.norm(x)).tanh()

    def forward(self, x):
        if self.kind == "attention":
            x = attend(x)
        if self.kind == "attention in a checkpoint":
            x = checkpoint(attend, x, use_reentrant=False)
        if self.kind == "checkpoint":
            return x + checkpoint(self.inner, x, use_reentrant=False)
        return x + self.inner(x)


def network(kind: str = "", width: int = 6, samples: int = 4):
    torch.manual_seed(0)
    model = nn.Sequential(Residual(kind, width), Residual("", width), nn.Linear(width, 3)).double()
    return model, torch.randn(samples, width).double(), torch.arange(samples) % 3


def has_node(value) -> bool:
    return any(node.name() == "NodeBackward" for node in nodes(value))


@pytest.mark.parametrize("penalty", [Frobenius(), Frobenius("exact"), InputGradient()])
@pytest.mark.parametrize(
    ("options", "node"),
    [
        ({}, False),
        ({"kind": "attention"}, False),
        ({"kind": "attention in a checkpoint"}, True),
        ({"kind": "checkpoint"}, True),
        ({"width": 64, "samples": (1 << 12) - 1}, False),
        ({"width": 64, "samples": 1 << 12}, True),  # a layer that is lean
        ({"width": 512, "samples": 200}, True),  # more than 2^26 products
    ],
    ids=str,
)
def test_of_what_it_is(options, node, penalty, size):
    model, x, y = network(**options)
    assert has_node(fast(model, x, y, penalty)[1]) == node
    with sdpa_kernel(SDPBackend.MATH):  # PyTorch's kernel has no second derivative in a checkpoint
        want = step(plain, model, x, y, penalty)
    assert_same(step(fast, model, x, y, penalty), want)


@pytest.mark.parametrize("penalty", [Frobenius(), Frobenius("exact"), InputGradient()])
def test_attention_by_a_fused_kernel(penalty, size, monkeypatch):
    """Whose second derivative is a hook's while the penalty is computed, and its own afterwards."""
    monkeypatch.setattr(attention, "LEAST", 0)
    model, x, y = network("attention")
    value = fast(model, x, y, penalty)[1]
    assert not has_node(value)
    assert any("FlashAttention" in node.name() for node in nodes(fast(model, x, y, penalty)[0]))
    with sdpa_kernel(SDPBackend.MATH):
        want = step(plain, model, x, y, penalty)
    assert_same(step(fast, model, x, y, penalty), want)


def test_an_x_that_wants_its_gradient(size):
    model, x, y = network()
    assert has_node(fast(model, x.requires_grad_(), y, Frobenius())[1])


def test_the_gram_matrix_of_a_first_layer(size):
    """Which the node alone has; one that is not the only way from x is none."""

    class First(nn.Sequential):
        def forward(self, x):
            return super().forward(x)

    model, x, y = First(nn.Linear(64, 4), nn.Tanh(), nn.Linear(4, 3)), torch.rand(9, 64), None
    assert has_node(fast(model, x, y, Frobenius("exact"))[1])
    assert not has_node(fast(model, x[:1], y, Frobenius())[1])


@pytest.mark.parametrize("kind", ["", "checkpoint"])
def test_what_is_done_to_logits_and_x_outside_changes_nothing(kind, size):
    model, x, y = network(kind)
    model.append(nn.Tanh())  # whose output is kept for its derivative
    want = step(fast, model, x, y, Frobenius())[2]
    torch.manual_seed(0)
    logits, value = fast(model, x, y, Frobenius())
    loss = F.cross_entropy(logits, y) + LAM * value
    with torch.no_grad():
        logits.zero_()
        x.zero_()
    assert relative_error(gradient(loss, model), want) < ROUNDING
    assert x.grad is None


def test_all_that_a_model_returns_has_its_gradient(size):
    class Both(Residual):
        def forward(self, x):
            return {"logits": super().forward(x), "loss": self.norm.weight.square().sum() * x.sum()}

    found = []
    for way in ("penalised", "plain"):
        torch.manual_seed(0)
        model, x = Both().double(), torch.randn(4, 6).double()
        if way == "penalised":
            with penalised(model, penalty=Frobenius("exact")) as held:
                returned = model(x)
            value = held.penalty
            assert not has_node(value)
        else:
            returned = model(x.requires_grad_())
            value = Frobenius("exact")(returned["logits"], x)
        found.append(gradient(returned["loss"] + returned["logits"].sum() + value, model))
    assert relative_error(*found) < ROUNDING


def test_nothing_is_kept_of_a_model_without_trained_parameters(size):
    model, x, y = network()
    logits, value = fast(model.requires_grad_(False), x, y, Frobenius())
    assert not logits.requires_grad
    assert not value.requires_grad


def margin(z):
    classes = torch.zeros(len(z), dtype=torch.int64)
    return F.multi_margin_loss(z, classes, reduction="none")


@pytest.mark.parametrize("way", [fast, plain])
@pytest.mark.parametrize(
    ("words", "last"),
    [
        ("multi_margin_loss_backward", margin),
        ("use_mm_for_euclid_dist", lambda z: torch.cdist(z, torch.ones(3, 6).double())),
        ("pdist", lambda z: torch.stack([F.pdist(one.view(-1, 1)) for one in z])),
    ],
    ids=["margin", "cdist", "pdist"],
)
def test_a_missing_second_derivative_is_said_in_words(size, way, words, last):
    class Last(Residual):
        def forward(self, x):
            return last(super().forward(x))

    model, x = Last().double(), torch.randn(4, 6).double()
    for _ in range(2):
        logits, value = way(model, x, None, Frobenius())
        with pytest.raises(RuntimeError, match="the penalty needs second derivatives") as caught:
            (logits.sum() + value).backward()
        assert words in str(caught.value)


def test_a_part_of_the_batch(size):
    """Chosen among the outputs of the whole, as by the node."""
    model, x, y = build("convnext", 6)
    penalty = Frobenius("exact", subsample=0.5)
    source = torch.Generator().manual_seed(3)
    logits, value = fast(model, x, y, penalty, generator=source)
    chosen = torch.randperm(6, generator=source.manual_seed(3))[:3]
    leaf = x.clone().requires_grad_()
    outputs = model(leaf)
    rows = [torch.autograd.grad(outputs[:, k].sum(), leaf, create_graph=True)[0] for k in range(5)]
    want = sum(row[chosen].square().sum() for row in rows) / 3
    assert not has_node(value)
    assert relative_error(logits, outputs) < ROUNDING
    assert relative_error(gradient(value, model), gradient(want, model)) < ROUNDING
