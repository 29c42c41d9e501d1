"""A graph as a CUDA graph, over a stand-in for these: when it is captured, and what it leaves."""

import threading
import time
import weakref

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from jacfast.step.traced.capture import Captured
from jacfast.step.traced.graph import Call, Graph, Value
from jacfast.step.traced.record import Recorder
from jacfast.step.traced.refuse import Refused

aten = torch.ops.aten


class Before(TorchDispatchMode):
    """Does something before the products after the first `left`."""

    def __init__(self, left: int, what) -> None:
        super().__init__()
        self.left, self.what = left, what

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func is aten.mm.default:
            self.left -= 1
            if self.left < 0:
                self.what()
        return func(*args, **(kwargs or {}))


def product() -> Captured:
    """Return x w for w and x."""
    w, x, z = Value(), Value(), Value()
    return Captured(Graph([w, x], [Call(aten.mm.default, (x, w), {}, z, False)], [z], {}), 1)


def weight(value: float) -> nn.Parameter:
    return nn.Parameter(value * torch.eye(2).double(), requires_grad=False)


def row(value: float = 1) -> torch.Tensor:
    return torch.full((1, 2), float(value)).double()


@pytest.mark.parametrize("error", [torch.OutOfMemoryError, KeyboardInterrupt])
@pytest.mark.parametrize("runs", range(4))
def test_a_capture_that_fails_leaves_none(cuda, runs, error):
    """In a run before it or in itself, at the first call or after a parameter has moved."""

    def fail() -> None:
        torch.rand(3)
        raise error("CUDA out of memory")

    captured, w = product(), weight(0)
    inside = RuntimeError, "due to a previous error during capture"
    kind, words = (error, "CUDA out of memory") if runs < 3 else inside
    for value in (1, 5):
        w.data = value * torch.eye(2).double()
        before = torch.get_rng_state()
        for _ in range(2):
            with pytest.raises(kind, match=words), Before(runs, fail):
                captured([w, row()])
            assert (cuda.current, cuda.at) == (cuda.default, "the current one")
        assert torch.equal(torch.get_rng_state(), before)
        for _ in range(2):
            assert captured([w, row()])[0].tolist() == [[value, value]]
    assert len(cuda.captures) == (2 if runs < 3 else 6)


def test_one_capture_while_parameters_stay(cuda):
    captured, w = product(), weight(1)
    found = []
    for i in range(3):
        w.mul_(2)
        found += captured([w, row(i)])
    assert [one[0, 0].item() for one in found] == [0, 4, 16]  # each in memory of its own
    assert len(cuda.captures) == 1


def test_on_a_stream_of_its_own_of_the_tensors_device(cuda):
    """Whichever device is the current one; other threads may do what they like meanwhile."""
    x = row()
    product()([weight(1), x])
    ((stream, device, mode),) = cuda.captures
    assert stream is not cuda.default
    assert (stream.device, device, mode) == (x.device, x.device, "thread_local")


def test_a_parameter_that_stands_for_another_is_copied(cuda):
    """A second pass makes it anew in each call, wherever that is."""
    captured, own = product(), weight(1)
    for value in (2.0, 3.0):
        other = weight(value)
        other.stands_for = own
        assert captured([other, row()])[0].tolist() == [[value, value]]
    assert len(cuda.captures) == 1


@pytest.mark.usefixtures("cuda")
def test_the_memory_of_a_capture_is_free_for_the_next():
    captured, w, alive = product(), weight(1), []
    captured([w, row()])
    graph = weakref.ref(captured._made.graph)
    w.data = 2 * torch.eye(2).double()
    with Before(0, lambda: alive.append(graph())):
        given = [w, row()]
        captured(given)
    assert alive
    assert not any(alive)
    assert not given  # taken out, to be freed


@pytest.mark.parametrize("runs", [1, 4])
def test_the_streams_wait_for_each_other(cuda, runs):
    """What is read may not be written yet, and what a failed run writes to is freed after it."""
    sides = []

    def look() -> None:
        sides.append(cuda.current)
        assert cuda.current.awaited == [cuda.default]
        assert cuda.default.awaited == []
        if len(sides) == runs:
            raise KeyboardInterrupt

    with pytest.raises((KeyboardInterrupt, RuntimeError)), Before(0, look):
        product()([weight(1), row()])
    assert len(sides) == runs
    assert cuda.default.awaited == [sides[0]]


@pytest.mark.usefixtures("cuda")
def test_two_threads_capture_one_after_the_other():
    inside, found = threading.Event(), []

    def slow() -> None:
        inside.set()
        time.sleep(0.2)

    def other() -> None:
        assert inside.wait(60)
        found.append(product()([weight(2), row()])[0].tolist())

    thread = threading.Thread(target=other)
    thread.start()
    with Before(3, slow):
        found.append(product()([weight(1), row()])[0].tolist())
    thread.join()
    assert sorted(found) == [[[1, 1]], [[2, 2]]]


def test_draws_are_looked_for_on_the_tensors_device(monkeypatch):
    """Another thread may draw on the current one, and a backward pass has a thread of its own."""
    states = [torch.zeros(1), torch.zeros(1)]

    def of_device(device="cuda"):
        return states[torch.device(device).index or 0].clone()

    monkeypatch.setattr(torch.cuda, "get_rng_state", of_device)
    recorder = Recorder([], [], torch.device("cuda", 1))
    states[0] += 1
    recorder.finish([])
    states[1] += 1
    with pytest.raises(Refused, match="random numbers that are set or drawn"):
        recorder.finish([])
