"""Out of memory: the error passes on as it is, with a word on the argument that needs less."""

import pytest
import torch
from torch import nn

from jacfast import deepfool, forward_with_penalty, jacobian
from jacfast.memory import ran_out

CPU = "DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes"


class Greedy(nn.Module):
    """A network that is done after some calls."""

    def __init__(self, error, calls=0):
        super().__init__()
        self.layer, self.error, self.calls = nn.Linear(4, 3), error, iter(range(calls))

    def forward(self, x):
        if next(self.calls, None) is None:
            raise self.error
        return self.layer(x)


CALLS = {
    "forward_with_penalty": (
        lambda model, x: forward_with_penalty(model, x, chunk_size=2),
        "less memory is needed with a smaller chunk_size; it was 2 of 6 samples",
    ),
    "forward_with_penalty at other points": (
        lambda model, x: forward_with_penalty(model, x, at=x + 1),
        "less memory is needed with a smaller chunk_size; it was 6 of 6 samples",
    ),
    "jacobian": (
        lambda model, x: jacobian(model, x, chunk_size=2),
        "less memory is needed with a smaller chunk_size; it was 2",
    ),
    "deepfool": (
        lambda model, x: deepfool(model, x, batch_size=3),
        "less memory is needed with a smaller batch_size; it was 3 of 6 samples",
    ),
}


@pytest.mark.parametrize("kind", [torch.OutOfMemoryError("no"), RuntimeError(CPU), MemoryError()])
@pytest.mark.parametrize("name", CALLS)
def test_the_argument_that_needs_less(name, kind):
    call, words = CALLS[name]
    error = type(kind)(*kind.args)
    with pytest.raises(type(kind)) as caught:
        call(Greedy(error, calls=int("other" in name)), torch.rand(6, 4))
    assert caught.value is error
    assert error.__notes__ == [words]


@pytest.mark.parametrize("name", CALLS)
def test_other_errors_have_no_note(name):
    error = RuntimeError("something else")
    with pytest.raises(RuntimeError, match=r"^something else$"):
        CALLS[name][0](Greedy(error), torch.rand(6, 4))
    assert not hasattr(error, "__notes__")


def test_which_errors_those_are():
    assert ran_out(RuntimeError(CPU))
    assert not ran_out(ValueError("allocate memory"))
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**60, dtype=torch.uint8)
    assert ran_out(caught.value)
