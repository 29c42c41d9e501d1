"""compiled="traced" from call to call: parameters, gradients, memory, copies, threads."""

import copy
import gc
import pickle
import threading
import weakref

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from jacfast import (
    Frobenius,
    WithPenalty,
    forward_with_penalty,
    penalised,
)
from tests.nets import relative_error
from tests.step.networks import build
from tests.step.steps import LAM, ROUNDING, assert_same, fast, gradient, loss_of, plain, step
from tests.step.tracing import assert_as_plain, assert_traced, plans

pytestmark = pytest.mark.usefixtures("never_eager")


def test_parameters_are_looked_up_in_every_call():
    model, x, y = build("mlp")
    fast(model, x, y, Frobenius(), compiled="traced")
    state = {name: 2 * value for name, value in model.state_dict().items()}
    model.load_state_dict(state)
    assert_as_plain(model, x, y, Frobenius(), compiled="traced")
    model.load_state_dict({k: v / 3 for k, v in state.items()}, assign=True)
    assert_as_plain(model, x, y, Frobenius(), compiled="traced")
    model[2].weight = nn.Parameter(torch.randn_like(model[2].weight))
    assert_as_plain(model, x, y, Frobenius(), compiled="traced")
    assert_traced(model, 1)


def test_gradients_are_added_to_those_that_are_there():
    model, x, y = build("mlp")
    for part in (slice(0, 2), slice(2, 4)):
        outputs = fast(model, x[part], y[part], Frobenius("exact"), compiled="traced")
        loss_of(*outputs, y[part]).backward()
    parts = (slice(0, 2), slice(2, 4))
    want = sum(step(plain, model, x[p], y[p], Frobenius("exact"))[2] for p in parts)
    assert relative_error(torch.cat([p.grad.flatten() for p in model.parameters()]), want) < 1e-9
    assert_traced(model, 1)


def test_two_calls_before_their_backward_passes():
    model, x, y = build("mlp")
    losses = [
        loss_of(*fast(model, x + i, y, Frobenius("exact"), compiled="traced"), y) for i in (0, 1)
    ]
    want = sum(step(plain, model, x + i, y, Frobenius("exact"))[2] for i in (0, 1))
    assert relative_error(gradient(losses[0] + losses[1], model), want) < ROUNDING


def test_the_trace_leaves_nothing():
    model, x, y = build("resnet")
    model.train()
    held, state = [dict(vars(m)) for m in model.modules()], torch.get_rng_state()
    fast(model, x, y, Frobenius("exact"), batch_norm="coupled", compiled="traced")
    assert torch.equal(torch.get_rng_state(), state)
    for module, before in zip(model.modules(), held, strict=True):
        assert vars(module).keys() == before.keys()
        assert all(vars(module)[name] is value for name, value in before.items())
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize("backward", [False, True])
@pytest.mark.parametrize("name", ["mlp", "cifar"])
def test_memory_is_freed_with_the_outputs(name, backward):
    model, x, y = build(name)
    fast(model, x, y, Frobenius(), compiled="traced")
    x, gone = x.clone(), weakref.ref(model)
    gc.collect()
    gc.disable()
    try:
        logits, value = fast(model, x, y, Frobenius(), compiled="traced")
        if backward:
            loss_of(logits, value, y).backward()
        kept = weakref.ref(x)
        del x, logits, value, model
        assert kept() is None
        assert gone() is None
    finally:
        gc.enable()


def test_copies_and_pickles_are_of_the_plain_model():
    model, x, y = build("mlp")
    want = step(fast, model, x, y, Frobenius(), compiled="traced")
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert not plans(other)
        assert_same(step(fast, other, x, y, Frobenius(), compiled="traced"), want)


def test_calls_of_several_threads():
    model, x, y = build("cifar")
    want = step(plain, model, x, y, Frobenius("exact"))
    found = [None] * 4

    def work(i: int) -> None:
        for _ in range(5):
            outputs = fast(model, x, y, Frobenius("exact"), compiled="traced")
            found[i] = [t.detach() for t in outputs], gradient(loss_of(*outputs, y), model)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for (logits, value), grads in found:
        assert_same((logits, value, grads), want)
    assert_traced(model, 1)


def test_with_penalty_and_penalised():
    model, x, y = build("mlp")
    want = step(plain, model, x, y, Frobenius("exact"))[2]
    module = WithPenalty(model, Frobenius("exact"), compiled="traced")
    for _ in range(2):
        assert relative_error(gradient(loss_of(*module(x, y), y), model), want) < ROUNDING
        with penalised(model, penalty=Frobenius("exact"), compiled="traced") as held:
            loss = F.cross_entropy(model(x), y)
        assert relative_error(gradient(loss + LAM * held.penalty, model), want) < ROUNDING
    assert_traced(model, 2)


class Several(nn.Module):
    """Logits, features, a loss, and a tensor without a gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(4, 6), nn.Linear(6, 3)

    def forward(self, x, scale=1.0, mask=None):
        h = self.first(x).tanh() * scale
        h = h if mask is None else h * mask
        z = self.last(h)
        return {"logits": z, "more": [h, z.mean()], "chosen": z.argmax(1), "name": "z"}


def test_everything_that_a_model_returns():
    torch.manual_seed(0)
    model, x = Several().double(), torch.randn(4, 4, dtype=torch.float64)
    mask = torch.rand(4, 6, dtype=torch.float64)
    for i in range(2):
        both = []
        for compiled in (None, "traced"):
            with penalised(model, penalty=Frobenius("exact"), compiled=compiled) as held:
                out = model(x + i, scale=2.0, mask=mask * (1 + i))
            assert out.keys() == {"logits", "more", "chosen", "name"}
            assert (out["name"], out["chosen"].dtype) == ("z", torch.int64)
            loss = out["logits"].square().sum() + out["more"][0].sum() + out["more"][1]
            found = [out["logits"], *out["more"], out["chosen"].double(), held.penalty]
            both.append([*(t.detach() for t in found), gradient(loss + held.penalty, model)])
        assert_same(*both)
    assert_traced(model, 1)


@pytest.mark.parametrize("number", [None, -4])
def test_the_number_of_the_step_is_checked_in_every_call(number):
    model, x, _ = build("mlp")
    rare = Frobenius(every=4)
    forward_with_penalty(model, x, penalty=rare, compiled="traced", step=0)
    with pytest.raises(ValueError, match="step must be"):
        forward_with_penalty(model, x, penalty=rare, compiled="traced", step=number)


def test_the_place_of_x_is_another_call():
    class Pair(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(3, 2), nn.Linear(3, 2)

        def forward(self, u, v):
            return self.a(u).tanh() + 2 * self.b(v).tanh()

    model = Pair().double()
    u, v = torch.randn(2, 4, 3).double()
    for place in (0, 1, 0):
        with penalised(model, penalty=Frobenius(), argument=place, compiled="traced"):
            logits = model(u, v)
        assert relative_error(logits, model(u, v)) < ROUNDING
