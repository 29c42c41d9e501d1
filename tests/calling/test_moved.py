"""What a call writes to parameters: seen, put back, or refused in words."""

import sys

import pytest
import torch
from torch import nn

from jacfast.calling import State, stood_for
from jacfast.calling.moved import SMALL


class Own(nn.Parameter):
    """A parameter of a class of its own, with attributes, as of quantised weights."""


class Holding(nn.Module):
    def __init__(self, size: int = 3, kind: type = nn.Parameter, trained: bool = False) -> None:
        super().__init__()
        self.weight = kind(torch.arange(float(size)), requires_grad=trained)
        self.also = [self.weight]


def no_grad(p) -> None:
    with torch.no_grad():
        p.add_(1)


def both(p) -> None:
    no_grad(p)
    p.data = p.data + 1


WRITES = {
    "in place": no_grad,
    "in place, then other data": both,
    "through data": lambda p: p.data.add_(1),
    "other data": lambda p: setattr(p, "data", p.data + 1),
    "data of another shape": lambda p: setattr(p, "data", torch.ones(2)),
    "a part of the data": lambda p: setattr(p, "data", p.data[:2]),
}
IN_PLACE = ("in place", "in place, then other data")  # what was there before is lost
LARGE = SMALL + 1


@pytest.mark.parametrize("trained", [False, True])
@pytest.mark.parametrize(
    ("size", "copied"), [(3, SMALL), (SMALL, SMALL), (LARGE, SMALL), (LARGE, sys.maxsize)]
)
@pytest.mark.parametrize("name", WRITES)
def test_a_write_is_seen_and_undone(name, size, copied, trained):
    model = Holding(size, trained=trained)
    parameter, state = model.weight, State(model, copied=copied)
    assert state.changed() is None
    WRITES[name](model.weight)
    copy = size <= copied
    seen = copy or name != "through data"  # into a large one: it leaves no trace to be seen
    assert (state.changed() == "weight of a Holding") == seen
    state.undo()
    undone = copy or name not in (*IN_PLACE, "through data")
    assert torch.equal(model.weight, torch.arange(float(size))) == undone
    assert model.weight is parameter


@pytest.mark.parametrize("trained", [False, True])
@pytest.mark.parametrize(("size", "copied"), [(3, SMALL), (LARGE, sys.maxsize), (LARGE, SMALL)])
@pytest.mark.parametrize("name", WRITES)
def test_a_second_pass_begins_where_the_first_did(name, size, copied, trained):
    model = Holding(size, trained=trained)
    parameter, state = model.weight, State(model, copied=copied)
    WRITES[name](model.weight)
    after, version = model.weight.detach().clone(), model.weight._version
    if size > copied and name == "through data":
        return  # not seen, as docs/limits.md says
    if size > copied and name in IN_PLACE:
        with pytest.raises(ValueError, match=r"begin where the first one did; .* shape \[4097\]"):
            state.again().__enter__()
    else:
        with state.again():
            assert torch.equal(model.weight, torch.arange(float(size)))
            assert model.also[0] is model.weight
            assert stood_for(model.weight) is parameter
            assert isinstance(model.weight, nn.Parameter)
            assert model.weight.requires_grad == trained
            WRITES[name](model.weight)
    assert model.weight is model.also[0] is parameter
    assert torch.equal(model.weight, after)
    assert model.weight._version == version


@pytest.mark.parametrize("name", WRITES)
def test_what_a_second_pass_alone_writes_to_a_large_one(name):
    """It is put back where it has other data; any write that is seen is an error."""
    model = Holding(LARGE)

    def write():
        with State(model).again():
            WRITES[name](model.weight)

    if name == "through data":
        write()
        return
    with pytest.raises(ValueError, match="a second pass"):
        write()
    assert torch.equal(model.weight, torch.arange(float(LARGE))) == (name not in IN_PLACE)


def test_classes_of_their_own_are_watched():
    model = Holding(kind=Own)
    state, parameter = State(model), model.weight
    with state.again():
        assert model.weight is parameter
    no_grad(model.weight)
    assert state.changed() == "weight of a Holding"
    with pytest.raises(ValueError, match="a second pass"):
        state.again().__enter__()


class Scripted(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(3), requires_grad=False)

    def forward(self, x):
        self.weight.add_(1)
        return x


@pytest.mark.filterwarnings("ignore:.*torch.jit")
def test_parameters_of_a_scripted_module():
    model = torch.jit.script(Scripted())
    state = State(model)
    with state.again():
        pass
    model(torch.ones(1))
    assert state.changed() == "a tensor"
    with pytest.raises(ValueError, match="a second pass"):
        state.again().__enter__()
    state.undo()
    assert model.weight.tolist() == [0, 0, 0]


def test_attributes_of_a_parameter_are_those_of_its_stand_in():
    """Of one for another stand-in, too."""
    model = Holding()
    model.weight.mask = mask = torch.ones(3)
    parameter, first = model.weight, State(model)
    no_grad(model.weight)
    with first.again():
        second, one = State(model), model.weight
        no_grad(model.weight)
        with second.again():
            for stand_in in (one, model.weight):
                assert stand_in is not parameter
                assert stand_in.mask is mask
                assert stood_for(stand_in) is parameter
            assert model.weight is not one
    assert not hasattr(parameter, "stands_for")


def test_nan_is_no_write():
    model = Holding()
    model.weight.data[1] = torch.nan
    state = State(model)
    assert state.changed() is None
    model.weight.data[0] = torch.nan
    assert state.changed() == "weight of a Holding"


def of_inference() -> nn.Module:
    with torch.inference_mode():
        return Holding()


def sparse() -> nn.Module:
    model = Holding()
    model.weight = nn.Parameter(torch.eye(3).to_sparse(), requires_grad=False)
    return model


@pytest.mark.parametrize("make", [of_inference, sparse, lambda: nn.LazyLinear(2)])
def test_parameters_of_other_kinds_may_be_there(make):
    model = make()
    state = State(model)
    assert state.changed() is None
    with state.again():
        pass
    assert state.changed() is None


def test_parameters_of_what_is_left_out_stay():
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    model.also = [model[1].weight]
    weights = model[0].weight, model[1].weight
    before = State(model, but=[model[1]])
    with torch.no_grad():
        for weight in weights:  # as a first pass might
            weight.add_(1)
    with before.again():
        assert model[0].weight is not weights[0]
        assert model[1].weight is model.also[0] is weights[1]
