"""What a model holds, and that it is put back: values, objects, and who else refers to them."""

import random
from collections import OrderedDict, deque

import numpy as np
import pytest
import torch
from torch import nn
from torch.ao.quantization import FusedMovingAvgObsFakeQuantize
from torch.ao.quantization.fake_quantize import default_fused_per_channel_wt_fake_quant

import jacfast
from jacfast.calling import Draws, State
from jacfast.calling.seeds import at_seed


class Holding(nn.Module):
    """Everything that a forward pass may write to."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 3)
        self.register_buffer("inplace", torch.zeros(2))
        self.register_buffer("replaced", torch.zeros(2))
        self.register_buffer("later", None)
        self.layer.register_buffer("shared", self.inplace)
        self.plain, self.number, self.text = torch.zeros(2), 0, ""
        self.list, self.dict, self.set = [1], OrderedDict(a=1, b=2), {1}
        self.deque, self.kept = deque([1], maxlen=2), None

    def forward(self, x):
        self.inplace += 1
        self.replaced = self.replaced + 1
        self.later = torch.ones(2)
        self.plain.add_(1)
        self.number, self.text = self.number + 1, self.text + "x"
        self.list.append(len(self.list))
        self.dict["a"] += 1
        self.dict.move_to_end("a")
        self.set.add(len(self.set) + 1)
        self.deque.append(3)
        self.kept = self.layer(x)
        self.new = 1
        return self.kept


def values(model) -> list:
    tensors = [model.inplace, model.layer.shared, model.replaced, model.later, model.plain]
    plain = [model.number, model.text, model.list, list(model.dict.items()), model.set]
    found = [None if t is None else t.tolist() for t in tensors]
    rest = [model.deque, getattr(model, "new", None), model.kept is None]
    return [*found, *map(repr, [*plain, *rest])]


def identities(model) -> list[int]:
    names = ("inplace", "replaced", "plain", "list", "dict", "set", "deque", "_buffers")
    return [id(getattr(model, name)) for name in names]


def test_a_second_pass_begins_where_the_first_did_and_leaves_no_trace():
    model, x = Holding(), torch.ones(2, 3)
    state = State(model)
    model(x)
    after, objects = values(model), identities(model)
    alias = model.list
    with state.again():
        assert values(model) == values(Holding())
        assert model.layer.shared is model.inplace
        model(x)
        assert values(model) == after
    assert values(model) == after
    assert identities(model) == objects
    assert model.list is alias
    assert model.layer.shared is model.inplace


def test_a_graph_keeps_the_buffers_it_has_saved():
    model = Holding()

    def output():
        weight = torch.ones(2, requires_grad=True)
        return weight, weight * model.inplace

    state = State(model)
    model(torch.ones(1, 3))
    weight, first = output()
    with state.again():
        model(torch.ones(1, 3))
    first.sum().backward()  # no error: nothing has been written to
    assert weight.grad.tolist() == [1, 1]


def test_after_an_error_all_is_as_before():
    model, x = Holding(), torch.ones(2, 3)
    model(x)
    before, objects = values(model), identities(model)
    state = State(model)

    def failing():
        with state.again():
            model(x)
            raise KeyError

    with pytest.raises(KeyError):
        failing()
    assert values(model) == before
    state = State(model)
    model(x)
    assert state.changed() is not None
    state.undo()
    assert values(model) == before
    assert identities(model) == objects


CHANGES = {
    "inplace": lambda model: model.inplace.add_(1),
    "replaced": lambda model: setattr(model, "replaced", torch.ones(2)),
    "plain": lambda model: model.plain.add_(1),
    "number": lambda model: setattr(model, "number", 1),
    "list": lambda model: model.list.append(2),
    "dict": lambda model: model.dict.update(a=5),
    "deque": lambda model: model.deque.append(2),
    "kept": lambda model: setattr(model, "kept", torch.ones(3)),
    "new": lambda model: setattr(model, "new", 1),
    "shared": lambda model: model.layer.shared.add_(1),
}


@pytest.mark.parametrize("name", CHANGES)
def test_changes_are_seen(name):
    model = Holding()
    state = State(model)
    assert state.changed() is None
    with torch.no_grad():
        model.layer(torch.ones(2, 3))
    assert state.changed() is None
    CHANGES[name](model)
    assert state.changed() is not None


def test_draws_come_again_and_go_on():
    torch.manual_seed(0)
    draws = Draws(torch.device("cpu"))
    first, second = torch.rand(2), torch.rand(2)
    with draws.again():
        assert torch.equal(torch.rand(2), first)
    with draws.again():  # of a further part
        assert torch.equal(torch.rand(2), second)
    third = torch.rand(2)
    torch.manual_seed(0)
    assert torch.equal(torch.rand(6), torch.cat([first, second, third]))


class Sharing(nn.Module):
    """Buffers that share their memory, in several layouts and types."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 3)
        self.register_buffer("all", torch.zeros(3, 4))
        self.register_buffer("first", self.all[:, :2])
        self.turned, self.same = self.all.T, self.all.data
        self.bits = self.all.view(torch.int32)[1]
        self.kept = [torch.view_as_complex(self.all.view(3, 2, 2))]

    def forward(self, x):
        self.first.add_(1)
        self.same[2].add_(2)
        return self.layer(x) * self.turned.sum()


def test_buffers_that_share_memory_share_it_in_a_second_pass():
    model, twin, x = Sharing(), Sharing(), torch.rand(2, 3)
    twin.layer.load_state_dict(model.layer.state_dict())
    state, want = State(model), twin(x)
    model(x)
    with state.again():
        assert torch.equal(model(x), want)
        assert model.all.flatten().tolist() == [1, 1, 0, 0, 1, 1, 0, 0, 3, 3, 2, 2]
        for name in ("first", "turned", "same", "bits"):
            assert torch.equal(getattr(model, name), getattr(twin, name))
        assert torch.equal(model.kept[0], twin.kept[0])
    assert torch.equal(model.all, twin.all)
    assert model.first.data_ptr() == model.all.data_ptr()


def test_a_step_writes_to_buffers_that_share_memory_as_one_call_does():
    model, x = Sharing().double(), torch.rand(2, 3).double()
    model.register_buffer("first", model.all[:, :2])  # which .double() has parted
    model.turned, model.same = model.all.T, model.all
    at, weight = x + 1, model.layer.weight
    _, value = jacfast.forward_with_penalty(model, x, at=at, penalty=jacfast.Frobenius("exact"))
    assert model.all.sum() == 14
    torch.testing.assert_close(value, 14**2 * weight.square().sum())


def test_an_interrupt_at_the_beginning_of_a_second_pass_leaves_the_model_as_it_was(monkeypatch):
    model, x = Holding(), torch.ones(2, 3)
    state = State(model)
    model(x)
    after, objects = values(model), identities(model)

    def interrupted(arrays):
        monkeypatch.undo()
        raise KeyboardInterrupt

    monkeypatch.setattr("jacfast.calling.state._fill", interrupted)
    with pytest.raises(KeyboardInterrupt), state.again():
        pass
    assert values(model) == after
    assert identities(model) == objects


@pytest.mark.parametrize("place", ["_write", "put"])
def test_an_interrupt_at_the_end_of_a_second_pass_leaves_the_model_as_it_was(monkeypatch, place):
    model, x = Holding(), torch.ones(2, 3)
    state = State(model)
    model(x)
    after, objects = values(model), identities(model)

    def interrupted(*_):
        monkeypatch.undo()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), state.again():  # noqa: PT012
        model(x)
        monkeypatch.setattr(f"jacfast.calling.state.{place}", interrupted)
    assert values(model) == after
    assert identities(model) == objects


def test_draws_of_python_and_numpy_come_again_and_go_on():
    def numbers():
        return random.random(), random.gauss(0, 1), np.random.random()  # noqa: NPY002

    def started():
        random.seed(0)
        np.random.seed(0)  # noqa: NPY002

    started()
    draws = Draws(torch.device("cpu"))
    first = numbers()
    with draws.again():
        assert numbers() == first
    third = numbers()
    started()
    assert [numbers(), numbers()] == [first, third]


def test_an_interrupt_while_seeds_are_set_leaves_all_numbers_as_they_were(monkeypatch):
    def interrupted(seed):
        raise KeyboardInterrupt

    before = random.getstate(), torch.get_rng_state()
    with monkeypatch.context() as patch:
        patch.setattr(np.random, "seed", interrupted)
        with pytest.raises(KeyboardInterrupt), at_seed(torch.device("cpu")):
            pass
    assert random.getstate() == before[0]
    assert torch.equal(torch.get_rng_state(), before[1])


def test_a_scripted_model():
    """Its buffers are written to, not exchanged; the values are put back all the same."""
    torch.manual_seed(0)
    plain = nn.InstanceNorm1d(3, track_running_stats=True)
    model, x = torch.jit.script(plain), torch.randn(2, 3, 5)
    state = State(model)
    assert state.changed() is None
    model(x)
    assert state.changed() is not None
    after = [buffer.clone() for buffer in model.buffers()]
    with state.again():
        assert model.running_mean.tolist() == [0, 0, 0]
    assert all(map(torch.equal, model.buffers(), after))
    with state.again():
        model(x)
        assert torch.equal(model.running_mean, after[0])
        model(x)
    assert all(map(torch.equal, model.buffers(), after))
    state = State(model)
    model(x)
    state.undo()
    assert all(map(torch.equal, model.buffers(), after))


def test_an_observer_of_quantization_that_writes_past_the_versions():
    observer = FusedMovingAvgObsFakeQuantize()
    model, x = nn.Sequential(observer, nn.Linear(4, 3)), torch.randn(8, 4)
    with pytest.raises(ValueError, match="chunk_size must be the whole batch"):
        jacfast.forward_with_penalty(model, x, chunk_size=2)
    assert observer.activation_post_process.min_val.isinf()
    jacfast.forward_with_penalty(model, x, at=2 * x)
    assert observer.activation_post_process.min_val == x.min()


def test_observers_of_channels_are_resized_past_the_versions():
    class Quantized(nn.Linear):
        def __init__(self) -> None:
            super().__init__(4, 3)
            self.fake = default_fused_per_channel_wt_fake_quant()

        def forward(self, x):
            return nn.functional.linear(x, self.fake(self.weight), self.bias)

    model, x = Quantized(), torch.randn(8, 4)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(ValueError, match="chunk_size must be the whole batch"):
        jacfast.forward_with_penalty(model, x, chunk_size=2)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name]), name


def test_a_sparse_buffer_is_not_compared():
    class Graph(nn.Linear):
        def __init__(self) -> None:
            super().__init__(4, 3)
            self.register_buffer("edges", torch.eye(4).to_sparse())

        def forward(self, x):
            return super().forward(torch.sparse.mm(self.edges, x.T).T)

    logits, _ = jacfast.forward_with_penalty(Graph(), torch.randn(8, 4), chunk_size=2)
    assert logits.shape == (8, 3)
