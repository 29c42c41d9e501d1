"""The backends beside "traced": Inductor, and which one "auto" stands for."""

import functools

import pytest
import torch
import torch._dynamo
import torch._inductor.config
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import jacfast.step.traced.backends as backends
from jacfast import Frobenius
from jacfast.step.traced.graph import Call, Graph, Value, substitute
from tests.step.networks import build
from tests.step.steps import assert_same, fast, step
from tests.step.tracing import IN_THIS_PROCESS, assert_as_plain, assert_traced, plans, update

aten = torch.ops.aten


@pytest.mark.slow
@IN_THIS_PROCESS
@pytest.mark.skipif(
    torch.__version__ < (2, 13), reason="Inductor may draw masks and vectors in another order"
)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("error:Inductor could not compile")
def test_inductor():
    """Dropout, a buffer that changes and draws; other parameters and another x after the first."""

    def network() -> nn.Module:
        torch.manual_seed(0)
        layers = [nn.Linear(6, 7), nn.BatchNorm1d(7), nn.Tanh(), nn.Dropout(0.4), nn.Linear(7, 3)]
        return nn.Sequential(*layers).double()

    x, y = torch.randn(5, 6, dtype=torch.float64), torch.arange(5) % 3
    found = []
    for compiled in ("inductor", None):
        model = network()
        for i in range(3):
            options = {"batch_norm": "coupled", "compiled": compiled}
            found.append([*step(fast, model, x + i, y, Frobenius(), i, **options), torch.rand(1)])
            found[-1] += [b.double() for b in model.buffers()]
            update(model)
        if compiled:
            assert_traced(model, 1)
            (plan,) = plans(model)
            late, _ = plan.late.run((True, True))
            assert all(isinstance(run, backends.Compiled) for run in (plan.forward, late))
    for got, want in zip(found[:3], found[3:], strict=True):
        assert_same(got, want)


@pytest.mark.parametrize("words", ["no compiler", ""])
def test_what_inductor_cannot_compile_runs_as_traced(monkeypatch, words):
    def broken(*args, **kwargs):
        raise RuntimeError(words)

    monkeypatch.setattr("torch._inductor.compile", broken)
    model, x, y = build("mlp")
    with pytest.warns(
        UserWarning, match=rf"Inductor could not compile .*\(RuntimeError: {words}\)"
    ):
        assert_as_plain(model, x, y, Frobenius(), compiled="inductor")
    assert_as_plain(model, x + 1, y, Frobenius(), compiled="inductor")


@pytest.mark.parametrize("kind", ["several", "an object", "a list", "around a list", "nothing"])
@pytest.mark.filterwarnings("ignore:Inductor could not compile")
def test_a_graph_is_compiled_once_and_called_as_it_is_to_be(monkeypatch, kind):
    """Inductor's functions take tensors, or a list that they empty, or hide one that does."""
    compiled = []

    def inductor(module, examples, options):
        compiled.append(options)
        assert not any(one.requires_grad for one in examples)

        def listed(given):
            tensors = [*given]
            given.clear()
            return module(*tensors)

        if kind == "nothing":
            raise RuntimeError
        listed._boxed_call = kind != "several"
        around = functools.wraps(listed)(lambda *given: listed([*given]))
        some = {"a list": listed, "around a list": around, "an object": module}
        return some.get(kind, lambda *given: module(*given))

    monkeypatch.setattr("torch._inductor.compile", inductor)
    x, k, y = Value(), Value(), Value()
    graph = Graph([x], [Call(aten.add.Tensor, (x, k), {}, y, False)], [y], {k: torch.ones(2)})
    run = backends.Compiled(graph)
    for value in (1.0, 2.0):
        given = [torch.full((2,), value, requires_grad=value == 1)]
        with torch.no_grad():
            assert run(given)[0].tolist() == [value + 1] * 2
        assert not given or "list" not in kind  # freed, where that is possible
    assert compiled == [{"fallback_random": True}]


def counted(function, *shapes) -> tuple[Call, int]:
    """Return a call, and how many multiplications PyTorch counts in it."""
    tensors = [torch.zeros(shape) for shape in shapes]
    more = [None, [1, 1], [0, 0], [1, 1], False, [0, 0], 1] if "conv" in str(function) else []
    with FlopCounterMode(display=False) as counter:
        made = function(*tensors, *more)
    args = tuple(substitute([*tensors, *more], Tensor, Value))
    return Call(function, args, {}, Value(made), False), counter.get_total_flops() // 2


def test_multiplications_are_those_that_pytorch_counts(monkeypatch):
    """By these "auto" chooses, on a CPU."""
    monkeypatch.setattr(backends, "LARGE", 1000)
    convolution = counted(aten.convolution.default, (2, 3, 5, 6), (4, 3, 3, 2))
    products = [
        counted(aten.mm.default, (7, 6), (6, 5)),
        counted(aten.addmm.default, (5,), (2, 9), (9, 5)),
        counted(aten.bmm.default, (3, 2, 6), (3, 6, 5)),
    ]
    other = Call(aten.add.Tensor, (Value(), Value()), {}, Value(), False)
    cpu = torch.device("cpu")
    for times, backend in ((0, "traced"), (5, "traced"), (15, "inductor")):
        some = [convolution, convolution, *(times * products)]
        graph = Graph([], [*(call for call, _ in some), other], [], {})
        want = [sum(n for _, n in part) for part in (some[:2], some[2:])]
        assert list(backends._multiplications(graph)) == want
        assert backends.chosen("auto", graph, cpu) == backend
    monkeypatch.setattr(backends, "LARGE", 5000)
    small = Graph([], [call for call, _ in some[:2]], [], {})
    assert backends.chosen("auto", small, cpu) == "inductor"
    assert backends.chosen("auto", small, torch.device("cuda")) == "traced"


@pytest.mark.parametrize(
    ("name", "large", "backend"),
    [("mlp", 0, "inductor"), ("cifar", 0, "traced"), ("cifar", 1 << 27, "inductor")],
)
def test_auto(name, large, backend, monkeypatch):
    """By whether there are large convolutions; stated in the docs."""
    made = []
    monkeypatch.setattr(backends, "LARGE", large)
    monkeypatch.setattr(
        backends, "Compiled", lambda graph: made.append(graph) or graph.as_function()
    )
    model, x, y = build(name)
    assert_as_plain(model, x, y, Frobenius(), compiled="auto")
    (plan,) = plans(model)
    assert plan.backend == backend
    assert len(made) == (2 if backend == "inductor" else 0)


@pytest.mark.parametrize("way", ["compiled model", "compiled in place", "compiled function"])
def test_who_is_compiled_uses_the_traced_step(way, monkeypatch):
    monkeypatch.setattr(backends, "LARGE", 0)  # Inductor takes seconds
    torch._dynamo.reset()
    model, x, y = build("cifar")
    other, call = model, fast
    if way == "compiled model":
        other = torch.compile(model, backend="eager")
    elif way == "compiled in place":
        model.compile(backend="eager")
    else:
        call = torch.compile(fast, backend="eager")
    for seed in range(2):
        want = step(fast, build("cifar")[0], x + seed, y, Frobenius(), seed)
        assert_same(step(call, other, x + seed, y, Frobenius(), seed), want)
    assert_traced(other, 1)
    torch._dynamo.reset()
    fresh = build("cifar")[0]
    fast(fresh, x, y, Frobenius())
    assert not plans(fresh)  # what is not compiled stays eager
