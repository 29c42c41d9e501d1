"""Two processes of torchrun: they train as one, and what stops one stops both with its words."""

import functools

import pytest
import torch

from jacfast.training.schedule import Schedule
from tests.distributed import by_hand, faults
from tests.distributed.launch import torchrun
from tests.integrations import hand

REFUSED = {
    "forward_with_penalty": "TypeError: model must have whole parameters; it is a FSDPModule:",
    "a layer": "TypeError: model must have whole parameters; 0 is a FSDPModule: with FSDP shard",
    "the pair, a layer": "TypeError: model must have whole parameters; 0 is a FSDPModule:",
    "penalised": "TypeError: model must have whole parameters; it is a FSDPModule:",
    "one line": "RuntimeError: the model's parameters must be kept for the loss's backward pass;",
    "one line, measured": "nothing",
    "fit": "TypeError: model must have whole parameters for its work to be shared among",
    "tensor parallel": "TypeError: model must have whole parameters; 0.weight is a DTensor:",
    "tensor parallel, one line": "RuntimeError: the model has an operation without a second deriv",
}


OTHER = "ConnectionAbortedError: another process of this job has stopped, process {} of 2: {}"
BROKEN = "ZeroDivisionError: this loss is broken"
FULL = "OSError: [Errno 27] File too large:"
NAN = "FloatingPointError: loss must stay finite; got nan in epoch 1 of fit"
HEARD = {  # by the first, and by the second
    "the first raises": (BROKEN, OTHER.format(0, BROKEN)),
    "the second raises": (OTHER.format(1, BROKEN), BROKEN),
    "both see it": (NAN, NAN),
    "full disk": (FULL, OTHER.format(0, FULL)),
    "full disk at the end": (FULL, OTHER.format(0, FULL)),
    "full disk of an attack": (OTHER.format(1, FULL), FULL),
}


def alone(job: str, name: str) -> dict[str, torch.Tensor]:
    """Return the weights of a plain loop, its penalty by double backward."""
    model, penalty = by_hand.make(name), by_hand.EXACT
    if job == "DDP":
        penalty = functools.partial(by_hand.DRAWN, generator=by_hand.source())
    steps = hand.groups(by_hand.data(name), by_hand.ACCUMULATED)
    hand.train(model, steps, Schedule(by_hand.LAM), penalty=penalty, clip=by_hand.CLIP)
    return model.state_dict()


def check_by_hand(weights, words):
    """Accumulated without synchronisation, scaled and clipped; and what is refused, in words."""
    far = {}
    for job, (_, name) in by_hand.JOBS.items():
        want = alone(job, name)
        assert weights[job].keys() == want.keys()
        far[job] = max(float((weights[job][key] - want[key]).abs().max()) for key in want)
    assert all(value < 1e-12 for value in far.values()), far
    assert words.keys() == REFUSED.keys()
    for name, start in REFUSED.items():
        assert words[name].startswith(start), (name, words[name])


@pytest.mark.slow
def test_two_processes(tmp_path):
    done = torchrun("tests.distributed.pair", 2, tmp_path)
    assert done.returncode == 0, done.stderr
    found = [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)]
    for rank, (trained, (words, _)) in enumerate(found):
        check_by_hand(*trained)
        assert words.keys() == HEARD.keys() == faults.FAULTS.keys()
        for name, said in words.items():
            assert said.startswith(HEARD[name][rank]), (name, rank, said)
    others = {path.name for path in tmp_path.iterdir() if path.suffix != ".pt"}
    assert others <= {".checkpoint.pt.lock", "attacked"}  # no half of a file
    first, second = (state for _, (_, state) in found)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert float(first["1.running_mean"].abs().sum()) > 0
    assert "unused parameters" not in done.stderr
