"""Both ways to a step beside torch.compile: of the model, of a part, of the step around it."""

import pytest
import torch
import torch._dynamo
import torch.nn.functional as F
from torch import Tensor, nn

import jacfast.step.traced
from jacfast import Frobenius, InputGradient, Spectral, WithPenalty, penalised
from tests.nets import RTOL, relative_error
from tests.step.networks import SIX, build
from tests.step.steps import LAM, ROUNDING, assert_same, fast, gradient, loss_of, plain, step
from tests.testing import whole_steps_compile

PENALTIES = [Frobenius(2), InputGradient(), Spectral()]


@pytest.fixture(autouse=True)
def _clean(monkeypatch):
    """Start and leave without anything compiled; Inductor takes seconds for each network."""
    monkeypatch.setattr(jacfast.step.traced, "chosen", lambda *_: "traced")
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def compiled(what, **options):
    return torch.compile(what, backend="aot_eager", **options)


@pytest.mark.parametrize(
    ("network", "called"), [*((name, True) for name in SIX), ("tutorial", False), ("vit", False)]
)
def test_a_compiled_model(network, called):
    """Whether or not it has been compiled by a call before; it is as good as new afterwards."""
    model, x, y = build(network)
    model.eval()
    other = compiled(model)
    expected = other(x) if called else None
    for penalty in PENALTIES:
        assert_same(step(fast, other, x, y, penalty), step(plain, model, x, y, penalty))
    if called:
        assert torch.equal(other(x), expected)


@pytest.mark.parametrize("network", ["mlp", "vit"])
def test_a_compiled_model_in_the_other_way_is_an_error(network):
    model, x, y = build(network)
    with pytest.raises(RuntimeError, match="compiled graphs have no second derivative"):
        step(plain, compiled(model), x, y, Frobenius())


@pytest.mark.parametrize("penalty", PENALTIES)
def test_a_model_compiled_in_place_and_a_part(penalty):
    model, x, y = build("cifar")
    want = step(plain, model, x, y, penalty)
    part = nn.Sequential(model[:2], compiled(model[2:6]), model[6:])
    assert_same(step(fast, part, x, y, penalty), want)
    model[2].compile(backend="aot_eager")
    assert_same(step(fast, model, x, y, penalty), want)
    model.compile(backend="aot_eager")
    assert_same(step(fast, model, x, y, penalty), want)
    assert_same(step(fast, model, x, y, penalty, at=x, chunk_size=3), want)


def test_only_forward_with_penalty_runs_compiled_code_as_it_was():
    model, x, y = build("mlp")
    seen = []

    def backend(graph, inputs):
        seen.append(len(inputs))
        return graph

    other = torch.compile(model, backend=backend)
    fast(other, x, y, Frobenius())
    assert not seen
    other(x)
    assert len(seen) == 1
    fast(other, x, y, Frobenius(every=2), step=1)  # left out: the model alone
    fast(other, x, y, Frobenius())
    other(x)
    assert len(seen) == 1


@pytest.mark.parametrize("network", ["mlp", "tutorial", "vit"])
def test_a_compiled_loss(network):
    model, x, y = build(network)
    logits, value = fast(model.eval(), x, y, Frobenius("exact"))
    got = gradient(compiled(loss_of, fullgraph=True)(logits, value, y), model)
    assert relative_error(got, step(plain, model, x, y, Frobenius("exact"))[2]) < ROUNDING


def whole(model, x: Tensor, y: Tensor) -> Tensor:
    return loss_of(*fast(model, x * 1.0, y, Frobenius("exact")), y)


def through_module(model, x: Tensor, y: Tensor) -> Tensor:
    return loss_of(*WithPenalty(model, Frobenius("exact"))(x, y), y)


def attached(model, x: Tensor, y: Tensor) -> Tensor:
    with penalised(model, penalty=Frobenius("exact")) as held:
        loss = F.cross_entropy(model(x), y)
    return loss + LAM * held.penalty


@pytest.mark.parametrize(
    ("network", "function"),
    [("mlp", whole), ("mlp", through_module), ("mlp", attached), ("cifar", whole)],
)
def test_a_compiled_step_breaks_its_graph(network, function):
    model, x, y = build(network)
    want = step(plain, model, x, y, Frobenius("exact"))[2]
    other = compiled(function)
    for _ in range(2):
        assert relative_error(gradient(other(model, x, y), model), want) < ROUNDING


def test_a_compiled_step_with_its_backward_pass():
    model, x, y = build("mlp")
    want = step(plain, model, x, y, Frobenius("exact"))[2]

    @compiled
    def training_step(x: Tensor, y: Tensor) -> Tensor:
        loss = whole(model, x, y)
        loss.backward()
        return loss.detach()

    training_step(x, y)
    assert (
        relative_error(torch.cat([p.grad.flatten() for p in model.parameters()]), want) < ROUNDING
    )


def test_a_compiled_step_inside_penalised():
    model, x, y = build("mlp")
    want = step(plain, model, x, y, Frobenius("exact"))[2]
    training_step = compiled(lambda x, y: F.cross_entropy(model(x), y))
    for _ in range(2):  # compiled without the penalty, then with it
        training_step(x, y)
        with penalised(model, penalty=Frobenius("exact")) as held:
            loss = training_step(x, y)
        assert relative_error(gradient(loss + LAM * held.penalty, model), want) < ROUNDING


@whole_steps_compile
@pytest.mark.parametrize("network", ["resnet", "convnext", "vit"])
def test_one_graph_of_the_other_way(network):
    model, x, y = build(network, dtype=torch.float32)

    def training_step(x: Tensor, y: Tensor) -> Tensor:
        return gradient(loss_of(*plain(model, x, y, Frobenius(1)), y), model)

    torch.manual_seed(0)
    with torch._dynamo.config.patch(trace_autograd_ops=True):
        got = compiled(training_step, fullgraph=True)(x, y)
    for way in (plain, fast):
        assert relative_error(got, step(way, model, x, y, Frobenius(1))[2]) < RTOL[x.dtype]
