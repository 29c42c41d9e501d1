"""Further arguments of a model: which of them go along with the samples."""

import re

import pytest
import torch

from jacfast.calling import Arguments
from tests.nets import draw


def seen(arguments: Arguments) -> tuple:
    """Return what a model gets beside x."""
    return arguments.call(lambda x, *args, **kwargs: (args, kwargs), torch.zeros(1))


MASK, TABLE = draw(4, 2), draw(3, 2)


@pytest.mark.parametrize(
    "index", [slice(1, 3), torch.tensor([2, 0, 2]), torch.tensor([True, False, True, True])]
)
def test_rows_go_along(index):
    whole = Arguments(
        (MASK, TABLE, "sum", (MASK, 1.0)),
        {"mask": MASK, "states": {"a": [MASK, TABLE]}, "none": None},
        samples=4,
    )
    args, kwargs = seen(whole.rows(index))
    assert torch.equal(args[0], MASK[index])
    assert args[1] is TABLE
    assert args[2:3] == ("sum",)
    assert torch.equal(args[3][0], MASK[index])
    assert torch.equal(kwargs["mask"], MASK[index])
    assert torch.equal(kwargs["states"]["a"][0], MASK[index])
    assert kwargs["states"]["a"][1] is TABLE
    assert kwargs["none"] is None
    assert seen(whole)[0][0] is MASK


def test_what_belongs_is_settled_by_the_whole_batch():
    """A table of three entries is no sample's once the batch is cut to three."""
    cut = Arguments((MASK,), {"table": TABLE}, samples=4).rows(slice(3)).rows(slice(1))
    assert torch.equal(seen(cut)[0][0], MASK[:1])
    assert seen(cut)[1]["table"] is TABLE


def test_one_sample_becomes_many():
    cut = Arguments((MASK[:1],), samples=1).rows(torch.zeros(5, dtype=torch.int64))
    assert torch.equal(seen(cut)[0][0], MASK[:1].expand(5, 2))


@pytest.mark.parametrize("rows", [None, slice(0, 4), slice(2)], ids=str)
def test_what_the_model_writes_to_is_the_callers(rows):
    """But for containers in which a tensor is replaced."""
    cut = rows == slice(2)
    notes, states = [], {"mask": [MASK], "own": {}}
    whole = Arguments((notes,), {"states": states}, samples=4)
    args, kwargs = seen(whole if rows is None else whole.rows(rows))
    assert args[0] is notes
    assert (kwargs["states"] is states) == (not cut)
    assert kwargs["states"]["own"] is states["own"]
    assert len(kwargs["states"]["mask"][0]) == (2 if cut else 4)
    assert len(states["mask"][0]) == 4


def test_an_empty_list_is_an_argument():
    notes = []
    assert seen(Arguments((notes,), samples=4))[0][0] is notes


def test_what_there_is():
    assert not Arguments(samples=4).any
    assert Arguments(([],), samples=4).any
    assert Arguments((1,), samples=4).any
    assert not Arguments((TABLE, torch.tensor(4.0)), {"a": 4}, samples=4).follow
    assert Arguments(kwargs={"mask": MASK}, samples=4).follow


@pytest.mark.parametrize(
    ("args", "kwargs", "text"),
    [
        (MASK, None, "args must be a tuple of arguments after x; got Tensor"),
        ("mask", None, "args must be a tuple of arguments after x; got str"),
        ({"mask": MASK}, None, "args must be a tuple of arguments after x; got dict"),
        ((), (MASK,), "kwargs must hold arguments by name; got ("),
        ((), {1: MASK}, "kwargs must hold arguments by name; got {1"),
    ],
)
def test_what_is_refused(args, kwargs, text):
    with pytest.raises(TypeError, match=re.escape(text)):
        Arguments(args, kwargs, samples=4)
