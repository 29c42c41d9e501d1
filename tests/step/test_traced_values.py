"""Values that PyTorch's C++ reads past every operation are not recorded: such calls run eager."""

import copy
import ctypes
import sys
import warnings

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence
from torch.utils.dlpack import to_dlpack

from jacfast import Frobenius
from tests.step.steps import assert_same, fast, gradient, loss_of
from tests.step.tracing import assert_traced


class Experts(nn.Module):
    """A mixture of experts, each called with the samples that the gate gives it."""

    def __init__(self, split) -> None:
        super().__init__()
        self.gate, self.split = nn.Linear(6, 2), split
        self.experts = nn.ModuleList([nn.Linear(6, 5), nn.Linear(6, 5)])

    def forward(self, x: Tensor) -> Tensor:
        expert = self.gate(x).argmax(1)
        order = expert.argsort(stable=True)
        parts = self.split(x[order], (expert == 0).sum().reshape(1))
        found = [one(part).tanh() for one, part in zip(self.experts, parts, strict=True)]
        return torch.cat(found)[order.argsort()]


class Recurrent(nn.Module):
    """A GRU over as many steps of each sample as its lengths, or the sizes of each step, say."""

    def __init__(self, way) -> None:
        super().__init__()
        self.gru, self.last, self.way = nn.GRU(3, 4, batch_first=True), nn.Linear(4, 5), way

    def forward(self, x: Tensor, given: Tensor) -> Tensor:
        return self.last(self.way(self, x, given))


def packed(model, x, lengths):
    rows = pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
    return model.gru(rows)[1][0].tanh()


def given_sizes(model, x, sizes):
    rows = x.transpose(0, 1).flatten(0, 1)[:9]
    return model.gru(PackedSequence(rows, sizes))[1][0].tanh()


def padded(model, x, sizes):
    rows = x.transpose(0, 1).flatten(0, 1)[:9]
    h, lengths = pad_packed_sequence(PackedSequence(rows, sizes), batch_first=True)
    return model.gru(h)[0].tanh().sum(1) / lengths[:, None]


def assert_eager_each_time(model, calls) -> None:
    """Check recorded calls, whose values differ, against eager ones, numbers and gradients."""
    for x, options in calls:
        found = []
        for compiled in (None, "traced"):
            logits, value = fast(model, x, None, Frobenius("exact"), compiled=compiled, **options)
            loss = loss_of(logits, value, torch.arange(len(x)) % 5)
            found.append([logits.detach(), value.detach(), gradient(loss, model)])
        assert_same(*found)


SPLITS = {
    "tensor_split": lambda x, ends: x.tensor_split(ends),
    "torch.tensor_split": lambda x, ends: torch.tensor_split(x, ends),
    "indices by name": lambda x, ends: x.tensor_split(tensor_indices_or_sections=ends),
    "strided indices": lambda x, ends: x.tensor_split(
        torch.stack([ends, torch.tensor([len(x)])]).expand(2, 2)[:, 0]
    )[:2],
    "sizes": lambda x, ends: x.split([int(ends), len(x) - int(ends)]),
    "slices": lambda x, ends: (x[: ends[0]], x[ends[0] :]),
    "narrow": lambda x, ends: (x.narrow(0, 0, int(ends)), x[int(ends) :]),
}


@pytest.mark.parametrize("split", SPLITS)
def test_experts(split):
    torch.manual_seed(0)
    model = Experts(SPLITS[split]).double()
    with pytest.warns(UserWarning, match="runs eager, and not compiled="):
        assert_eager_each_time(model, [(x, {}) for x in torch.randn(4, 8, 6).double()])


WAYS = {
    "packed": (packed, [[5, 2, 1, 4], [2, 5, 3, 3]]),
    "with sizes": (given_sizes, [[4, 3, 1, 1], [4, 2, 2, 1]]),
    "padded": (padded, [[4, 3, 1, 1], [4, 2, 2, 1]]),
}


@pytest.mark.parametrize("way", WAYS)
def test_sequences_of_several_lengths(way):
    torch.manual_seed(0)
    function, given = WAYS[way]
    model, x = Recurrent(function).double(), torch.randn(4, 5, 3).double()
    with pytest.warns(UserWarning, match="runs eager, and not compiled="):
        assert_eager_each_time(model, [(x, {"args": (torch.tensor(one),)}) for one in given])


class Between(nn.Module):
    """Two linear layers, and a function in between that also gets a tensor of integers."""

    def __init__(self, between) -> None:
        super().__init__()
        self.first, self.last, self.between = nn.Linear(6, 6), nn.Linear(6, 5), between

    def forward(self, x: Tensor, given: Tensor) -> Tensor:
        return self.last(self.between(self.first(x).tanh(), given))


def copied(h, given):
    return h * copy.deepcopy(given)


def at_address(h, given):
    return h * ctypes.c_double.from_address(h.data_ptr()).value


def bytes_of(h, given):
    return h * bytes(h.detach().untyped_storage())[1]


class Capsule:
    """What hands over a tensor's memory without asking the tensor, as to_dlpack does."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor

    def __dlpack_device__(self) -> tuple[int, int]:
        return (1, 0)

    def __dlpack__(self, **_):
        return to_dlpack(self.tensor)


REFUSED = {
    "a deep copy": (copied, "Python's hands"),
    "an address": (at_address, "Python's hands, data_ptr"),
    "dlpack": (lambda h, g: h * float(np.from_dlpack(h.detach()).max()), "hands, __dlpack__"),
    "a capsule": (
        lambda h, g: h * float(np.from_dlpack(Capsule(h.detach())).max()),
        "hands, _to_dlpack",
    ),
    "a storage": (lambda h, g: h * h.detach().storage()[3], "Python's hands, storage"),
    "bytes": (bytes_of, "Python's hands, untyped_storage"),
    "an array on a GPU": (
        lambda h, g: h * (1 + hasattr(h, "__cuda_array_interface__")),
        "Python's hands, __get__",
    ),
    "a tuple of numbers": (lambda h, g: h * torch.tensor((*g.double(),)), "depend on values"),
    "integers split by others": (lambda h, g: h * g.tensor_split(g[:1])[0].sum(), "depend on"),
    "an empty tensor": (lambda h, g: h + 0 * torch.empty(6).double().nan_to_num(), "empty"),
    "a part of an empty one": (lambda h, g: h + 0 * h.new_empty(8)[2:].nan_to_num(), "empty"),
    "a list of numbers": (lambda h, g: h * torch.tensor([*g.double()]), "depend on values"),
    "an old tensor of a list": (lambda h, g: h * torch.Tensor([*g.double()]), "depend on values"),
    "a new tensor of a list": (lambda h, g: h * h.new_tensor([[*g]]), "depend on values"),
    "an index of a list": (lambda h, g: h[:, [g[0] - 1, g[1] - 1] * 3], "depend on values"),
    "counts": (lambda h, g: h * torch.bincount(g).sum(), "depend on values"),
    "unique": (lambda h, g: h * g.unique().sum(), "depend on values"),
    "repeats": (lambda h, g: h * g.repeat_interleave(g).sum(), "depend on values"),
    "a selection": (lambda h, g: h * g.masked_select(g > 1).sum(), "depend on values"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_others_are_refused(kind):
    between, reason = REFUSED[kind]
    model = Between(between).double()
    x = torch.randn(4, 6).double()
    calls = [(x, {"args": (torch.arange(1, 7).roll(i),)}) for i in range(2)]
    with pytest.warns(UserWarning, match=f"runs eager, and not compiled=.*{reason}"):
        assert_eager_each_time(model, calls)


def test_a_profiler_stays_where_it_is():
    """Recording listens as one where there is none."""
    model, x = Between(lambda h, given: h).double(), torch.randn(4, 6).double()

    def step():
        fast(model, x, None, Frobenius(), args=(x,), compiled="traced")

    step()
    assert sys.getprofile() is None
    seen = []

    def profile(_frame, event, _what):
        seen.append(event)

    x = x[:3]
    sys.setprofile(profile)
    try:
        step()
        assert sys.getprofile() is profile
    finally:
        sys.setprofile(None)
    assert "c_call" in seen


def filled(h, given):
    made = h.new_empty(6, 8)
    made[:, :6], made[:, 6:] = given, 1
    return h * made[:, :6].sum(0)


def freed(h, given):
    """Constants that may lie where an empty tensor has been."""
    ones = [1.0] * 1000
    for _ in range(20):
        h.new_empty(1000)
        h = h * h.new_tensor(ones).mean()
    return h * given


def like_integers(h, given):
    rounded = (3 * h).detach()
    return h.view_as(given).reshape_as(given) * rounded.to(given) * rounded.type_as(given)


RECORDED = {
    "what has been freed": freed,
    "an empty tensor that is filled": filled,
    "one that is written as a whole": lambda h, g: h * torch.add(g, 1, out=torch.empty_like(g)),
    "like an empty one": lambda h, g: h * torch.ones_like(torch.empty_like(g)) * g,
    "without entries": lambda h, g: h * torch.cat([torch.empty(0, dtype=g.dtype), g]),
    "one that is not read": lambda h, g: h * g.new_empty(4, 6).shape[0] * g,
    "the shapes of integers": lambda h, g: like_integers(h, g.expand(4, 6)) * g,
    "the shape of integers": lambda h, g: h.expand_as(g.expand(len(h), 6)) * g,
    "numbers of a list": lambda h, g: h * h.new_tensor([1.0, 2.0, 3.0, 4.0, 5.0, 6.0]) * g,
    "numbers that are changed": lambda h, g: h * torch.tensor([1.0] * 6).double().add_(1) * g,
    "numbers that are changed at once": lambda h, g: h * torch.tensor([1.0] * 6).add_(1) * g,
    "numbers like integers": lambda h, g: h * g.new_tensor([1, 2, 3, 4, 5, 6]) * g,
    "one that counts by nothing": lambda h, g: (
        g * torch.addmm(torch.empty_like(h), h, torch.eye(6).double(), beta=0)
    ),
    "a copy": lambda h, g: h * torch.as_tensor(g) * torch.stack([*g.double()]),
    "a type": lambda h, g: h.to(g.long().to(torch.float64)) * g,
    "an index": lambda h, g: h[:, g - 1],
    "a mask": lambda h, g: h.masked_fill(g > 2, 0.5),
    "buckets": lambda h, g: h * torch.bucketize(h.detach(), g.double()),
    "a histogram": lambda h, g: h * torch.histc(g.double(), 3).max(),
}


@pytest.mark.parametrize("kind", RECORDED)
def test_others_are_recorded(kind):
    model = Between(RECORDED[kind]).double()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        x = torch.randn(4, 6).double()
        calls = [(x, {"args": (torch.arange(1, 7).roll(i),)}) for i in range(3)]
        assert_eager_each_time(model, calls)
    assert_traced(model, 1)
