"""Calls at once, nested and interrupted: in the end every flag is as it was."""

import contextlib
import copy
import functools
import gc
import itertools
import random
import signal
import sys
import threading

import pytest
import torch
import torch._dynamo
from torch import nn

import jacfast
from jacfast import evaluation
from jacfast.calling import contexts, eager, logits_of, modes, quiet
from jacfast.calling.held import held
from jacfast.step import attach
from tests.interrupts import interrupts
from tests.nets import draw

X = draw(6, 6)


def network() -> nn.Sequential:
    """Return a network in a mixture of modes, with a frozen weight."""
    torch.manual_seed(0)
    layers = [nn.Linear(6, 8), nn.LayerNorm(8), nn.Tanh(), nn.Linear(8, 4)]
    model = nn.Sequential(*layers).double()
    model[1].eval()
    model[3].bias.requires_grad_(False)
    return model


def state(*models: nn.Module) -> list:
    return [
        (
            [module.training for module in model.modules()],
            [(p.requires_grad, p.grad is None) for p in model.parameters()],
        )
        for model in models
    ]


def stance() -> str:
    return torch._dynamo.eval_frame._stance.stance


def nothing_held() -> bool:
    holds = (modes.TRAINING, modes.GRADIENT, contexts.STANCE)
    return not attach._inside and not any(hold._own or hold._holders for hold in holds)


class Turn:
    """Lets threads pass step by step in a given order: a letter is the next step of that thread."""

    def __init__(self, order: str) -> None:
        self.order, self.place = order, 0
        self.changed = threading.Condition()

    def wait(self, name: str) -> None:
        with self.changed:
            ready = self.changed.wait_for(lambda: self.order[self.place] == name, timeout=20)
            assert ready, f"{name} never came at {self.place} of {self.order}"

    def done(self) -> None:
        with self.changed:
            self.place += 1
            self.changed.notify_all()


ORDERS = sorted({"".join(order) for order in itertools.permutations("AABB")})


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("shared", ["the model", "a layer", "a parameter"])
def test_two_calls_in_every_order(order, shared):
    """Enter and leave, each thread in its turn; afterwards all is as before either."""
    first = network()
    second = first
    if shared == "a layer":
        second = nn.Sequential(network()[0], *list(first)[1:])
    elif shared == "a parameter":
        second = network()
        second[3].weight = first[3].weight
    models = {"A": first, "B": second}
    before, turn, failed = state(first, second), Turn(order), []
    torch._dynamo.eval_frame  # noqa: B018  loaded, so that there is a stance

    def work(name: str) -> None:
        try:
            turn.wait(name)
            with quiet(models[name]):
                assert not any(module.training for module in models[name].modules())
                assert not any(p.requires_grad for p in models[name].parameters())
                assert stance() == "force_eager"
                turn.done()
                turn.wait(name)
            turn.done()
        except BaseException as error:
            failed.append(error)
            turn.done()

    threads = [threading.Thread(target=work, args=(name,)) for name in "AB"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert not failed
    assert state(first, second) == before
    assert stance() == "default"
    assert nothing_held()


class Meeting(nn.Module):
    """A model whose forward passes wait for each other, so that calls overlap."""

    def __init__(self, barrier: threading.Barrier) -> None:
        super().__init__()
        self.body, self.barrier = network(), barrier

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.barrier.wait(timeout=20)
        assert not self.body[0].training
        return self.body(x)


@pytest.mark.parametrize("fails", [False, True])
def test_attacks_at_once_on_one_model(fails):
    """Their forward passes meet; each thread makes as many, and one more or less each round."""
    model = Meeting(threading.Barrier(2))
    before = state(model)
    want = jacfast.jacobian(model.body, X)
    for trial in range(20):
        results, errors = [], []

        def work(number: int, trial: int = trial, results: list = results) -> None:
            try:
                x = X if not fails or number else X[:, :3]  # a shape that raises in the model
                results.append(jacfast.jacobian(model, x, chunk_size=1 + (trial + number) % 2))
            except RuntimeError as error:
                errors.append(error)  # noqa: B023

        threads = [threading.Thread(target=work, args=(n,)) for n in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(timeout=60)
        assert len(errors) == int(fails)
        assert all(torch.allclose(found, want, atol=1e-12) for found in results)
        assert state(model) == before
        assert stance() == "default"
        assert nothing_held()


def test_many_calls_of_many_kinds():
    model = network()
    before = state(model)
    y = torch.zeros(6, dtype=torch.int64)
    kinds = (
        lambda: jacfast.deepfool(model, X, steps=3),
        lambda: jacfast.fgsm(model, X, eps=0.1, clip=None),
        lambda: evaluation.accuracy(functools.partial(model), X, y),
        lambda: jacfast.deep_defense_penalty(model, X, y, steps=2),
    )

    def work(start: int) -> None:
        for i in range(8):
            kinds[(start + i) % len(kinds)]()

    threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
    old = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(timeout=120)
    finally:
        sys.setswitchinterval(old)
    assert state(model) == before
    assert stance() == "default"
    assert nothing_held()


def test_nested_of_two_models_that_share_a_layer():
    first = network()
    second = nn.Sequential(nn.Linear(6, 6).double(), first)
    before = state(first, second)
    with quiet(first), quiet(second):
        pass
    assert state(first, second) == before
    outer, inner = quiet(first), quiet(second)
    outer.__enter__()
    inner.__enter__()
    outer.__exit__(None, None, None)  # not the last in, and not the last out
    assert not first[0].weight.requires_grad
    inner.__exit__(None, None, None)
    assert state(first, second) == before


def test_a_generator_that_is_left_lying():
    model = network()
    before = state(model)

    def points():
        with quiet(model):
            yield 1
            yield 2

    run = points()
    next(run)
    assert not model[0].training
    del run
    gc.collect()
    assert state(model) == before


def test_what_the_user_sets_meanwhile_stays():
    model = network()
    with quiet(model):
        model[1].train()  # was in eval mode
        model[3].bias.requires_grad_()  # was frozen
        with quiet(model):
            assert not model[1].training
    assert model[1].training
    assert model[3].bias.requires_grad
    assert model[0].training
    assert nothing_held()


def test_a_stance_that_the_user_sets_meanwhile_stays():
    try:
        with quiet(network()):
            torch.compiler.set_stance("eager_on_recompile")
        assert stance() == "eager_on_recompile"
    finally:
        torch.compiler.set_stance("default")
    assert nothing_held()


def test_a_copy_made_afterwards_is_as_the_model():
    model = network()
    with quiet(model):
        pass
    assert state(copy.deepcopy(model)) == state(model)


@pytest.mark.parametrize("event", ["call", "c_return"])
def test_an_interrupt_at_any_moment(event):
    own = {contexts.__file__, modes.__file__, held.__code__.co_filename, attach.__file__}
    model = network()
    model.compile(backend="eager")
    before, attributes, at = state(model), dict(vars(model)), 0

    def run() -> None:
        with quiet(model), eager(), jacfast.penalised(model):
            logits_of(torch.tanh, X)

    for at in interrupts(run, own, event):
        if state(model) != before or not nothing_held():
            gc.collect()
        assert state(model) == before, at
        assert vars(model) == attributes, at
        assert stance() == "default", at
        assert nothing_held(), at
        assert not contexts.logits_alone(), at
    assert at > 20


def test_real_interrupts():
    """Of 200 at random moments; before flags were held so, one in about thirty left something."""
    model, draws = network(), random.Random(0)
    before = state(model)

    def interrupt(*_):
        raise KeyboardInterrupt

    usual = signal.signal(signal.SIGALRM, interrupt)
    try:
        for _ in range(200):
            with contextlib.suppress(KeyboardInterrupt):
                # again after a second: Python drops what is raised in a finaliser
                signal.setitimer(signal.ITIMER_REAL, draws.uniform(1e-5, 1e-3), 1.0)
                while True:
                    with quiet(model):
                        pass
            signal.setitimer(signal.ITIMER_REAL, 0)
            if state(model) != before or not nothing_held():
                gc.collect()  # a context that was interrupted on its way in ends here
            assert state(model) == before
            assert stance() == "default"
            assert nothing_held()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, usual)
