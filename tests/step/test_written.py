"""What graphs write to is known from their calls, and written back where they are captured."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import jacfast.step.traced.replay
from jacfast import Frobenius
from jacfast.step.traced.capture import Captured
from jacfast.step.traced.graph import Call, Graph, Value
from jacfast.step.traced.writes import written
from tests.step.changing import CHANGING, SHAPE
from tests.step.networks import build
from tests.step.steps import fast, loss_of

aten = torch.ops.aten
MOMENTUM, EPS = 0.1, 1e-5


@pytest.mark.parametrize("function", ["native_batch_norm", "_native_batch_norm_legit"])
@pytest.mark.parametrize("first", [0.0, float("nan"), 3.0])
@pytest.mark.usefixtures("cuda")
def test_what_is_written_is_known_without_its_values(function, first):
    """A first batch need not move the statistics, and NaN in it is nothing that was written."""
    x, mean, var, z = (Value() for _ in range(4))
    function = getattr(aten, function).default
    args = (x, None, None, mean, var, True, MOMENTUM, EPS)
    call = Call(function, args, {}, [z, Value(), Value()], True)
    captured = Captured(Graph([x, mean, var], [call], [z], {}), 1)
    got, want = ((torch.zeros(3), torch.ones(3)) for _ in range(2))
    for batch in (torch.full((4, 3), first), torch.randn(4, 3)):
        version = batch._version
        (one,) = captured([batch, *got])
        other = function(batch, None, None, *want, True, MOMENTUM, EPS)[0]
        assert batch._version == version
        for pair in ((one, other), *zip(got, want, strict=True)):
            torch.testing.assert_close(*pair, rtol=0, atol=0, equal_nan=True)


@pytest.mark.usefixtures("cuda")
def test_what_is_written_by_a_view():
    own, view = Value(), Value()
    calls = [
        Call(aten.select.int, (own, 0, 1), {}, view, False),
        Call(aten.add_.Tensor, (view, 1), {}, None, True),
    ]
    captured, buffer = Captured(Graph([own], calls, [], {}), 0), torch.zeros(3)
    for times in range(1, 4):
        captured([buffer])
        assert buffer.tolist() == [0, times, 0]


@pytest.mark.usefixtures("cuda")
def test_what_another_graph_has_made_is_written_to_where_it_is():
    x, y, z, copy = (Value() for _ in range(4))
    early = Captured(Graph([x], [Call(aten.add.Tensor, (x, 1), {}, y, False)], [y], {}), 0)
    late_calls = [
        Call(aten.mul_.Tensor, (z, 2), {}, None, True),
        Call(aten.clone.default, (z,), {}, copy, False),
    ]
    late = Captured(Graph([z], late_calls, [copy], {}), 1)
    for value in (1.0, 5.0):
        (made,) = early([torch.full((2,), value)])
        assert late([made])[0].tolist() == made.tolist() == [2 * (value + 1)] * 2


@pytest.mark.usefixtures("cuda")
def test_what_is_not_written_stays_as_it_is():
    """Running statistics in eval mode: a copy would cost a kernel, and count as a change."""
    x, mean, var, z = (Value() for _ in range(4))
    args = (x, None, None, mean, var, False, MOMENTUM, EPS)
    call = Call(aten.native_batch_norm.default, args, {}, [z, Value(), Value()], False)
    captured = Captured(Graph([x, mean, var], [call], [z], {}), 1)
    given = [torch.randn(4, 3), torch.zeros(3), torch.ones(3)]
    want = given[0] / (1 + EPS) ** 0.5
    torch.testing.assert_close(captured(list(given))[0], want)
    assert [one._version for one in given] == [0, 0, 0]


@pytest.mark.parametrize("name", ["spectral norm", "dropout", "instance norm", "batch norm"])
def test_whatever_changes_in_a_run_is_known_to_be_written(monkeypatch, name):
    found = []

    def watching(backend, graph, outside):
        def run(given):
            tensors, before = list(given), [tensor.clone() for tensor in given]
            made = graph.as_function()(given)
            pairs = enumerate(zip(tensors, before, strict=True))
            changed = {place for place, (now, was) in pairs if not torch.equal(now, was)}
            found.append((changed, set(written(graph))))
            return made

        return run

    monkeypatch.setattr(jacfast.step.traced.replay, "runner", watching)
    model, x, y = build("resnet", 6)
    if name != "batch norm":
        model, x, y = CHANGING[name]().double(), torch.randn(6, *SHAPE).double(), y % 3
    options = {"batch_norm": "coupled"} if name == "batch norm" else {}
    loss_of(*fast(model.train(), x, y, Frobenius(), compiled="traced", **options), y).backward()
    (forward, known), (backward, also) = found
    assert forward == known
    assert backward <= also
    assert bool(known) == (name != "dropout")


class Frozen(nn.Module):
    """Batch-norm whose running statistics are parameters without a gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.mean = nn.Linear(3, 3), nn.Parameter(torch.zeros(3), requires_grad=False)
        self.var = nn.Parameter(torch.ones(3), requires_grad=False)

    def forward(self, x):
        return self.layer(F.batch_norm(x, self.mean, self.var, training=True))


def test_running_statistics_that_are_parameters_change_as_in_one_call():
    model, x = Frozen(), torch.randn(4, 3)
    twin = copy.deepcopy(model)
    with pytest.warns(UserWarning, match=r"runs eager.*a parameter in place, aten.*batch_norm"):
        fast(model, x, None, Frobenius(), compiled="traced", batch_norm="coupled")
    twin(x)
    torch.testing.assert_close(model.mean, twin.mean)
    torch.testing.assert_close(model.var, twin.var)
