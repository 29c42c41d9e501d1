"""Dropout of a batch in parts is that of one call."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from jacfast import Frobenius
from jacfast.calling import Masks, part_of
from tests.nets import draw, relative_error
from tests.step.steps import ROUNDING, assert_same, fast, gradient, loss_of, plain, step

N = 40


def network(inplace: bool = False) -> nn.Module:
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 4, 3), nn.Dropout(0.3, inplace), nn.ReLU(), nn.Dropout2d(0.4)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Dropout(0.2), nn.Linear(144, 5)).double()


def batch() -> tuple[Tensor, Tensor]:
    torch.manual_seed(1)
    return torch.randn(N, 3, 8, 8, dtype=torch.float64), torch.randint(5, (N,))


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("function", [F.dropout, F.dropout2d])
def test_each_part_has_its_masks(function, layout):
    x = torch.rand(6, 4, 5, 3).contiguous(memory_format=layout)
    torch.manual_seed(0)
    want = function(function(x, 0.5), 0.2)
    after = torch.rand(())
    torch.manual_seed(0)
    masks, order = Masks(6), torch.tensor([4, 0, 5, 2, 1, 3])
    for index in (slice(0, 1), order[3:], order[:2]):
        with masks.of(index):
            torch.testing.assert_close(function(function(x[index], 0.5), 0.2), want[index])
    assert torch.rand(()) == after


@pytest.mark.parametrize(
    ("function", "shape"), [(F.dropout1d, (6, 4, 5)), (F.dropout3d, (6, 4, 5, 3, 2))]
)
def test_each_part_has_its_channels(function, shape):
    x = torch.rand(shape)
    torch.manual_seed(0)
    want = function(x, 0.5)
    torch.manual_seed(0)
    masks = Masks(6)
    for index in (slice(2, 6), slice(0, 2)):
        with masks.of(index):
            torch.testing.assert_close(function(x[index], 0.5), want[index])


@pytest.mark.parametrize("shape", [(5, 3), ()])
def test_other_rows_than_samples_are_dropped_as_pytorch_does(shape):
    """One number for all, too, by which a layer is left out."""
    x = torch.rand(shape)
    torch.manual_seed(0)
    want = F.dropout(x)
    torch.manual_seed(0)
    with Masks(6).of(slice(0, 2)):
        assert torch.equal(F.dropout(x), want)


def test_a_layer_in_eval_mode_has_no_mask_beside_one_in_training_mode():
    x = torch.rand(6, 3)
    with Masks(6).of(slice(0, 2)):
        F.dropout(x[:2], 0.5)
        assert torch.equal(F.dropout(x[:2], 0.5, False), x[:2])


def test_what_is_written_to_is_what_was_given():
    x = torch.ones(2, 64)
    with Masks(6).of(slice(0, 2)):
        assert F.dropout(x, 0.5, True, True) is x
    assert set(x.flatten().tolist()) == {0, 2}


@pytest.mark.parametrize("more", [{}, {"at": True}, {"subsample": 0.5}], ids=str)
@pytest.mark.parametrize("inplace", [False, True])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_a_step_in_chunks_is_that_of_one_call(more, inplace, layout):
    model = network(inplace).to(memory_format=layout)
    x, y = batch()
    x = x.contiguous(memory_format=layout)
    penalty = Frobenius("exact", subsample=more.get("subsample", 1.0))
    options = {"at": x} if "at" in more else {}
    torch.manual_seed(2)
    logits, value = fast(
        model, x, y, penalty, chunk_size=7, generator=torch.Generator().manual_seed(3), **options
    )
    got = gradient(loss_of(logits, value, y), model)
    torch.manual_seed(2)
    expected = model(leaf := x.clone().requires_grad_())
    assert relative_error(logits, expected) < ROUNDING
    chosen = torch.arange(N)
    if penalty.subsample < 1:
        chosen = torch.randperm(N, generator=torch.Generator().manual_seed(3))[: N // 2]
    total = 0
    for k in range(5):
        (g,) = torch.autograd.grad(expected[:, k].sum(), leaf, create_graph=True)
        total = total + g[chosen].square().sum() / len(chosen)
    assert relative_error(value, total) < ROUNDING
    assert relative_error(got, gradient(loss_of(expected, total, y), model)) < ROUNDING


class Checkpointed(nn.Module):
    def __init__(self, again: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.last, self.again = nn.Linear(5, 8), nn.Linear(8, 3), again

    def drop(self, x: Tensor) -> Tensor:
        return F.dropout(F.gelu(self.first(x)), 0.4, self.training)

    def forward(self, x: Tensor) -> Tensor:
        h = checkpoint(self.drop, x, use_reentrant=False) if self.again else self.drop(x)
        return self.last(h)


def test_a_checkpoint_finds_the_masks_that_it_had():
    """It draws them anew in the backward pass, from where they were drawn: each chunk its own."""
    torch.manual_seed(1)
    x, y = torch.randn(N, 5, dtype=torch.float64), torch.randint(3, (N,))
    want = step(plain, Checkpointed(False).double(), x, y, Frobenius("exact"), chunk_size=7)
    got = step(fast, Checkpointed(True).double(), x, y, Frobenius("exact"), chunk_size=7)
    assert_same(got, want)


def test_measuring_the_largest_tensor_draws_nothing():
    model, (x, _) = network(), batch()
    before = torch.get_rng_state()
    part_of(model, x)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("size", [2, 3, 4])
@pytest.mark.parametrize("kind", ["tokens outermost", "behind attention"])
def test_masks_are_drawn_in_the_order_of_memory(kind, size):
    """As PyTorch draws them: attention with batch_first returns what has the tokens outermost."""
    torch.manual_seed(0)
    x = draw(5, 6, 8).transpose(0, 1)
    if kind == "tokens outermost":
        first: nn.Module = nn.Dropout(0.3)
    else:
        x = x.contiguous()
        first = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.3, batch_first=True)
        first.self_attn.dropout = 0.0
    model = nn.Sequential(first, nn.Flatten(), nn.Linear(40, 3)).double()
    torch.manual_seed(3)
    want = model(x)
    torch.manual_seed(3)
    got, _ = fast(model, x, None, Frobenius(), chunk_size=size, generator=torch.Generator())
    assert relative_error(got, want) < ROUNDING
