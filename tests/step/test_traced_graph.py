"""The graphs themselves: cut, without what nobody needs, and without waiting for the device."""

import pytest
import torch
from torch import nn

from jacfast import Frobenius
from jacfast.step.traced.graph import Call, Graph, Value
from jacfast.step.traced.missing import without
from tests.step.changing import CHANGING, SHAPE
from tests.step.entries import ENTRIES
from tests.step.networks import SIX, build
from tests.step.others import OTHERS
from tests.step.steps import fast
from tests.step.test_gradients import PENALTIES
from tests.step.tracing import plans

aten = torch.ops.aten
WAITS = ("_local_scalar_dense", "nonzero", "is_nonzero", "equal", "masked_select", "unique")


def graphs(model, x, y, penalty, **options) -> list[Graph]:
    fast(model, x, y, penalty, compiled="traced", **options)
    (plan,) = plans(model)
    return [plan.trace.forward, plan.trace.backward]


def waiting(graph: Graph) -> list[str]:
    """Return the calls for which a host would wait for the device, or whose shapes are values."""
    found = []
    for call in graph.calls:
        name = str(call.function)
        moves = "device" in call.kwargs and "_to_copy" in name
        shapes = torch.Tag.dynamic_output_shape in call.function.tags and "index." not in name
        if moves or shapes or any(word in name for word in WAITS):
            found.append(name)
    return found


@pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")
@pytest.mark.parametrize("name", [*SIX, *OTHERS, *ENTRIES])
def test_nothing_waits_for_the_device(name):
    for penalty in ("one projection", "spectral"):
        model, x, y = build(name, nets=SIX | OTHERS | ENTRIES)
        for graph in graphs(model, x, y, PENALTIES[penalty]):
            assert graph.calls
            assert not waiting(graph)


@pytest.mark.parametrize("penalty", PENALTIES)
def test_no_penalty_waits_for_the_device(penalty):
    model, x, y = build("tutorial")
    for graph in graphs(model, x, y, PENALTIES[penalty]):
        assert not waiting(graph)


@pytest.mark.parametrize("name", ["spectral norm", "parametrized", "instance norm", "dropout"])
def test_no_changing_model_waits_for_the_device(name):
    torch.manual_seed(0)
    x, y = torch.randn(4, *SHAPE), torch.arange(4) % 3
    for graph in graphs(CHANGING[name](), x, y, Frobenius(subsample=0.5)):
        assert not waiting(graph)


def test_waiting_is_seen():
    """The look itself: an item, a mask's count, a copy to another device."""
    x, y = Value(), Value()
    for function, kwargs in (
        (aten._local_scalar_dense.default, {}),
        (aten.nonzero.default, {}),
        (aten.masked_select.default, {}),
        (aten._to_copy.default, {"device": torch.device("cpu")}),
    ):
        assert waiting(Graph([x], [Call(function, (x,), kwargs, y, False)], [y], {}))


def test_a_cut():
    """What is made before and read after is kept; what nobody needs is left out; writes stay."""
    x, a, b, c, unused = (Value() for _ in range(5))
    calls = [
        Call(aten.mul.Tensor, (x, x), {}, a, False),
        Call(aten.exp.default, (x,), {}, unused, False),
        Call(aten.add_.Tensor, (x, 1), {}, None, True),
        Call(aten.add.Tensor, (a, x), {}, b, False),
        Call(aten.split_with_sizes.default, (b, [1, 1]), {}, [None, c], False),
    ]
    early, late = Graph([x], calls, [a, c], {}).cut(3, 1)
    assert [len(early.calls), len(late.calls)] == [2, 2]
    assert (early.inputs, early.outputs, late.inputs, late.outputs) == ([x], [a, a], [x, a], [c])
    given = [torch.tensor([1.0, 2.0])]
    kept, (first, second) = given[0], early.as_function()(given)
    assert not given  # taken out, to be freed
    assert kept.tolist() == [2, 3]
    assert first is second
    assert late.as_function()([kept, second])[0].tolist() == [7]
    assert late.as_module()(kept, second)[0].tolist() == [7]


def test_a_gradient_that_does_not_come_in():
    """What hangs from it alone is not computed, nor its product with NaN; the rest is the same."""
    like, nan = torch.ones(2), torch.tensor([float("nan")] * 2)
    g, h, a, b, c, d, bad = (Value(like) for _ in range(7))
    calls = [
        Call(aten.mul.Tensor, (g, bad), {}, a, False),
        Call(aten.mul.Tensor, (h, 3), {}, b, False),
        Call(aten.add_.Tensor, (b, a), {}, None, True),
        Call(aten.add.Tensor, (b, a), {}, c, False),
        Call(aten.neg.default, (a,), {}, d, False),
    ]
    graph = Graph([g, h, bad], calls, [b, c, d], {})
    late = without(graph, [g, h], [g])
    assert late.inputs == [h]
    found = late.as_function()([like.clone()])
    assert (found[0].tolist(), found[1].tolist(), found[2]) == ([3, 3], [3, 3], None)
    whole = graph.as_function()([torch.ones(2), like.clone(), 0 * nan])
    assert whole[0].isnan().all()
    other = without(graph, [g, h], [h]).as_function()([like.clone(), 2 * like])
    assert [one.tolist() for one in other] == [[2, 2], [4, 4], [-2, -2]]
    scaled = Graph([g, bad], [Call(aten.mul_.Tensor, (bad, g), {}, None, True)], [bad], {})
    assert without(scaled, [g], [g]).outputs == [None]


def test_constants_and_arguments_of_every_kind():
    x, k, y = Value(), Value(), Value()
    kwargs = {"dtype": torch.float64, "memory_format": torch.contiguous_format}
    calls = [Call(aten.clone.default, (k,), {}, y, False)]
    calls.append(Call(aten.add_.Tensor, (y, x), {"alpha": float("inf")}, None, True))
    calls.append(Call(aten._to_copy.default, (y,), kwargs, z := Value(), False))
    graph = Graph([x], calls, [z, None], {k: torch.ones(2)})
    for _ in range(2):
        found, nothing = graph.as_function()([torch.ones(2)])
        assert (found.dtype, found.tolist(), nothing) == (torch.float64, [float("inf")] * 2, None)


def test_fewer_operations_than_the_eager_step():
    """What counts is dispatched: forward, and backward."""

    class Count(torch.utils._python_dispatch.TorchDispatchMode):
        number = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            Count.number += 1
            return func(*args, **(kwargs or {}))

    model, x, y = build("mlp")
    assert isinstance(model, nn.Module)
    with Count():
        logits, value = fast(model, x, y, Frobenius())
        (logits.sum() + value).backward()
    ours = sum(len(graph.calls) for graph in graphs(model, x, y, Frobenius()))
    assert ours < 0.8 * Count.number
