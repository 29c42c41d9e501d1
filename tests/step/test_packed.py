"""Packed sequences, which are padded to the longest of those that pass together."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from jacfast import Frobenius, forward_with_penalty, penalised
from tests.step.steps import assert_same

EXACT = Frobenius("exact")


class Tagger(nn.Module):
    """Two outputs for each step of a sequence; `total` is how long they are padded to."""

    def __init__(self, total: int | None = None) -> None:
        super().__init__()
        self.gru, self.head, self.total = nn.GRU(3, 4, batch_first=True), nn.Linear(4, 2), total
        self.padded = nn.Identity()

    def forward(self, x: Tensor, lengths: Tensor, mean: bool = False) -> Tensor:
        packed = pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
        h, _ = pad_packed_sequence(self.gru(packed)[0], batch_first=True, total_length=self.total)
        h = self.head(self.padded(h))
        return h.mean(1) if mean else h


def build(total: int | None = None):
    torch.manual_seed(0)
    return Tagger(total).double(), torch.randn(5, 6, 3).double(), torch.tensor([2, 2, 6, 1, 4])


@pytest.mark.parametrize("compiled", [None, "traced"])
@pytest.mark.parametrize("share", [1.0, 0.4])
@pytest.mark.filterwarnings("ignore:.*runs eager")
def test_chunks_of_other_shapes_are_refused(share, compiled):
    model, x, lengths = build()
    options = {
        "chunk_size": 2,
        "compiled": compiled,
        "penalty": Frobenius("exact", subsample=share),
    }
    words = (
        r"chunk_size must be the whole batch, 5, or None for a model that returns rows of shape "
        r"\[\d, 2\] for some samples and \[\d, 2\] for others, as chunks of that cannot .* got 2"
    )
    with pytest.raises(ValueError, match=words):
        forward_with_penalty(model, x, args=(lengths,), **options)
    with penalised(model, **options), pytest.raises(ValueError, match=words):
        model(x, lengths)
    words = words.replace(r"\[\d, 2\]", r"\[\d+\]")  # of an inner layer, as rows
    with pytest.raises(ValueError, match=words):
        forward_with_penalty(
            model, x, args=(lengths,), kwargs={"mean": True}, layer="padded", **options
        )


@pytest.mark.parametrize("mean", [False, True])
def test_those_of_one_shape_are_joined(mean):
    model, x, lengths = build(total=6)
    given = {"args": (lengths,), "kwargs": {"mean": mean}}

    def found(**options):
        logits, value = forward_with_penalty(model, x, penalty=EXACT, **given, **options)
        loss = logits.square().sum() + value
        return logits, value, *torch.autograd.grad(loss, list(model.parameters()))

    assert_same(found(chunk_size=2), found())
