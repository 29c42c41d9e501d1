"""The backends beside "traced": Inductor, and which one "auto" stands for."""

import pytest
import torch
import torch._dynamo
from torch import nn

import jacfast.step.traced.backends as backends
from jacfast import Frobenius
from tests.step.networks import build
from tests.step.steps import assert_same, fast, step
from tests.step.tracing import IN_THIS_PROCESS, assert_as_plain, assert_traced, plans, update


@pytest.mark.slow
@IN_THIS_PROCESS
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


def test_what_inductor_cannot_compile_runs_as_traced(monkeypatch):
    def broken(*args, **kwargs):
        raise RuntimeError("no compiler")

    monkeypatch.setattr("torch._inductor.compile", broken)
    model, x, y = build("mlp")
    with pytest.warns(UserWarning, match=r"Inductor could not compile .*no compiler"):
        assert_as_plain(model, x, y, Frobenius(), compiled="inductor")
    assert_as_plain(model, x + 1, y, Frobenius(), compiled="inductor")


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
