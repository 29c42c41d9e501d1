"""What depends on the number of the step, or on what an optimizer asks for in it."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import jacfast
from jacfast.training import Defence, Schedule, fit
from jacfast.training.descent import inner
from tests.training.problem import cross_entropy, problem

SCHEDULE = Schedule(0.2, start=2, warmup=3)
EXACT = jacfast.Frobenius("exact")


def weights(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def by_hand(weight, steps):
    """Take steps of SGD on CE + weight(step) R, R by double backward, the batches in order."""
    model, x, y = problem()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    batches = list(zip(x.split(8), y.split(8), strict=True))
    for step in range(steps):
        xb, yb = batches[step % len(batches)]
        leaf = xb.clone().requires_grad_()
        logits = model(leaf)
        rows = [
            torch.autograd.grad(logits[:, k].sum(), leaf, create_graph=True)[0] for k in range(3)
        ]
        norm = sum(row.square().sum() for row in rows) / len(xb)
        optimizer.zero_grad()
        (F.cross_entropy(logits, yb) + weight(step) * norm).backward()
        optimizer.step()
    return weights(model)


def fitted(loss, epochs, tmp_path=None, resume=False, unknown=False):
    model, x, y = problem()
    batches = DataLoader(TensorDataset(x, y), 8)
    if unknown:  # how many there are
        batches = Endless(batches)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    save = None if tmp_path is None else tmp_path / "run"
    options = {"optimizer": optimizer, "save": save, "resume": resume}
    fit(model, batches, epochs=epochs, loss=loss, **options)
    return weights(model)


class Endless:
    def __init__(self, batches):
        self.batches = batches

    def __iter__(self):
        return iter(self.batches)


def test_a_weight_by_steps():
    want = by_hand(SCHEDULE, 8)
    assert torch.allclose(fitted(Defence(EXACT, SCHEDULE), 2), want, atol=1e-6)
    assert float((want - by_hand(lambda _: 0.2, 8)).abs().max()) > 1e-3


def test_every_other_step():
    every = jacfast.Frobenius("exact", every=3)
    want = by_hand(lambda step: 0.0 if step % 3 else 0.3, 8)
    assert torch.allclose(fitted(Defence(every, 0.1), 2), want, atol=1e-6)


@pytest.mark.parametrize("unknown", [False, True])
def test_a_resumed_run_goes_on_counting(tmp_path, unknown):
    loss = Defence(jacfast.Frobenius("exact", every=3), Schedule(0.2, warmup=12))
    whole = fitted(loss, 3, unknown=unknown)
    fitted(loss, 1, tmp_path, unknown=unknown)
    assert torch.equal(fitted(loss, 3, tmp_path, resume=True, unknown=unknown), whole)


@pytest.mark.parametrize(("penalise", "twins"), [("clean", False), ("attacked", True)])
def test_before_its_start_there_is_no_penalty(penalise, twins):
    model, x, y = problem()
    options = {"attack": lambda model, x, y: x + 1, "twins": twins, "penalise": penalise}
    scheduled = Defence(EXACT, SCHEDULE, layer="1", batch_norm="frozen", **options)
    assert torch.equal(scheduled(model, x, y, step=1), Defence(**options)(model, x, y))
    later = Defence(EXACT, 0.2 * 2 / 3, layer="1", batch_norm="frozen", **options)
    assert torch.equal(scheduled(model, x, y, step=3), later(model, x, y))


def test_without_a_step_or_a_weight():
    model, x, y = problem()
    with pytest.raises(ValueError, match=r"step must be given for lam=Schedule\(.*; got None"):
        Defence(EXACT, SCHEDULE)(model, x, y)
    with pytest.raises(ValueError, match="lam must be > 0 with a penalty"):
        Defence(EXACT, Schedule(0.0))
    with pytest.raises(ValueError, match="lam needs a penalty to weigh"):
        Defence(lam=SCHEDULE)


class WithoutClosure(torch.optim.SGD):
    def step(self):
        super().step()


class WithoutGradients(torch.optim.SGD):
    """Calls the closure where gradients are off, as some do."""

    @torch.no_grad()
    def step(self, closure=None):
        loss = None if closure is None else closure()
        super().step()
        return loss


class Asks(torch.optim.SGD):
    """The same, and must have one."""

    @torch.no_grad()
    def step(self, closure):
        loss = closure()
        super().step()
        return loss


class Around(torch.optim.Optimizer):
    """Passes on what it is given to another one, as wrappers do."""

    def __init__(self, inner):
        self.inner = inner
        super().__init__(inner.param_groups, inner.defaults)

    def step(self, closure=None):
        return self.inner.step() if closure is None else self.inner.step(closure)


class Passing(Around):
    def step(self, *args, **kwargs):
        return self.inner.step(*args, **kwargs)


def sgd(parameters):
    return torch.optim.SGD(parameters, 0.1)


def lbfgs(parameters):
    return torch.optim.LBFGS(parameters, lr=0.1, max_iter=3)


@pytest.mark.parametrize(
    ("make", "twin"),
    [
        (lambda p: WithoutClosure(p, 0.1), sgd),
        (lambda p: WithoutGradients(p, 0.1), sgd),
        (lambda p: Asks(p, 0.1), sgd),
        (lambda p: Around(sgd(p)), sgd),
        (lambda p: Around(lbfgs(p)), lbfgs),
        (lambda p: Passing(lbfgs(p)), lbfgs),
    ],
)
@pytest.mark.parametrize("scheduled", [False, True])
def test_whatever_step_takes(make, twin, scheduled):
    found = []
    for kind in (make, twin):
        model, x, y = problem()
        own = kind(list(model.parameters()))
        schedule = torch.optim.lr_scheduler.StepLR(own, 1, 0.5) if scheduled else None
        given = {"optimizer": own, "scheduler": schedule}
        fit(model, x, y, epochs=2, batch_size=8, loss=cross_entropy, **given)
        found.append(weights(model))
    assert torch.equal(*found)


def test_hooks_before_the_step_see_its_gradients():
    """Clipping in one clipped the gradients of the step before, and did nothing."""
    clip = 0.05

    def loop(trained, x, y):
        optimizer = torch.optim.SGD(trained.parameters(), 0.1)
        for xb, yb in zip(x.split(8), y.split(8), strict=True):
            optimizer.zero_grad()
            cross_entropy(trained, xb, yb).backward()
            nn.utils.clip_grad_norm_(trained.parameters(), clip)
            optimizer.step()

    (model, x, y), (twin, _, _) = problem(), problem()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    optimizer.register_step_pre_hook(
        lambda *_: nn.utils.clip_grad_norm_(model.parameters(), clip) and None
    )
    fit(
        model, DataLoader(TensorDataset(x, y), 8), epochs=1, loss=cross_entropy, optimizer=optimizer
    )
    loop(twin, x, y)
    assert torch.equal(weights(model), weights(twin))


def test_a_loss_that_is_constant_is_named_so():
    model, x, y = problem()
    constant = lambda *_: torch.ones(())  # noqa: E731
    with pytest.raises(ValueError, match="loss must depend on the model's parameters"):
        fit(model, x, y, epochs=1, batch_size=8, loss=constant, optimizer=sgd(model.parameters()))


class NoClosure(Exception):
    """As of toolboxes of optimizers."""


class SharpnessAware(torch.optim.Optimizer):
    """SAM as it is usually written: gradients first, then a step that insists on a closure."""

    def __init__(self, parameters, rho=0.05):
        super().__init__(parameters, {"lr": 0.1})
        self.inner, self.rho = torch.optim.SGD(self.param_groups, 0.1), rho
        self.outer = self  # as wrappers may know each other

    @torch.no_grad()
    def step(self, closure=None):
        if closure is None:
            raise NoClosure("sharpness-aware minimisation requires a closure")
        own = [p for group in self.param_groups for p in group["params"]]
        size = torch.stack([p.grad.norm() for p in own]).norm()
        moves = [self.rho / size * p.grad for p in own]
        torch._foreach_add_(own, moves)
        torch.enable_grad()(closure)()
        torch._foreach_sub_(own, moves)
        self.inner.step()


def test_an_optimizer_is_not_within_itself():
    own = SharpnessAware([nn.Parameter(torch.ones(2))])
    assert inner(own) == [own.inner]


def halved(optimizer, args, kwargs):
    for group in optimizer.param_groups:
        for p in group["params"]:
            p.grad.mul_(0.5)


def test_sharpness_aware_minimisation():
    """Two steps: the first, in which it is found to insist on a closure, and one more."""
    model, x, y = problem()
    optimizer = SharpnessAware(model.parameters())
    fit(model, x, y, epochs=2, batch_size=len(x), loss=cross_entropy, optimizer=optimizer)
    want = problem()[0]
    own = list(want.parameters())
    for _ in range(2):
        grads = torch.autograd.grad(F.cross_entropy(want(x), y), own)
        size = torch.cat([g.flatten() for g in grads]).norm()
        near = {
            name: p + 0.05 / size * g
            for (name, p), g in zip(want.named_parameters(), grads, strict=True)
        }
        moved = torch.func.functional_call(want, near, (x,))
        there = torch.autograd.grad(F.cross_entropy(moved, y), own)
        for q, g in zip(own, there, strict=True):
            q.data -= 0.1 * g
    for p, q in zip(model.parameters(), own, strict=True):
        torch.testing.assert_close(p, q)


class Seen(torch.optim.SGD):
    """One that asks for a closure, and notes the gradients it sees."""

    def step(self, closure=None):
        if closure is None:
            raise ValueError("please give a closure")
        self.sizes = [
            *getattr(self, "sizes", []),
            float(self.param_groups[0]["params"][0].grad.norm()),
        ]
        return super().step()


def test_a_hook_changes_gradients_once_where_a_closure_is_asked_for():
    model, x, y = problem()
    optimizer = Seen(model.parameters(), 0.1)
    optimizer.register_step_pre_hook(halved)
    fit(model, x, y, epochs=1, batch_size=len(x), loss=cross_entropy, optimizer=optimizer)
    want = problem()[0]
    (g,) = torch.autograd.grad(F.cross_entropy(want(x), y), [next(want.parameters())])
    assert optimizer.sizes == [pytest.approx(float(g.norm()) / 2)]


def test_a_defence_of_ones_own_is_told_no_step():
    class Mine(Defence):
        def __call__(self, model, x, y):
            return 2 * super().__call__(model, x, y)

    model, x, y = problem()
    fit(model, x, y, epochs=1, batch_size=8, lr=0.1, loss=Mine(EXACT, 0.1))
    assert not torch.equal(weights(model), weights(problem()[0]))


def test_an_error_of_an_optimizer_without_closures_is_its_own():
    class Broken(torch.optim.SGD):
        def step(self):
            raise TypeError("mine")

    model, x, y = problem()
    optimizer = Broken(model.parameters(), 0.1)
    with pytest.raises(TypeError, match="mine"):
        fit(model, x, y, epochs=1, batch_size=8, loss=cross_entropy, optimizer=optimizer)


def test_who_needed_no_closure_once_is_given_none_after_an_error():
    class Fails(torch.optim.SGD):
        given = ()

        def step(self, closure=None):
            self.given += (closure,)
            if len(self.given) == 2:
                raise TypeError("mine")
            super().step()

    model, x, y = problem()
    optimizer = Fails(model.parameters(), 0.1)
    with pytest.raises(TypeError, match="mine"):
        fit(model, x, y, epochs=1, batch_size=8, loss=cross_entropy, optimizer=optimizer)
    assert optimizer.given == (None, None)


def test_an_optimizer_within_goes_on_with_groups_of_its_own(tmp_path):
    class Apart(torch.optim.Optimizer):
        def __init__(self, parameters):
            super().__init__(parameters, {"lr": 1.0})
            self.inner = torch.optim.SGD(parameters, 0.1, momentum=0.9)

        def step(self):
            self.inner.step()

    def run(epochs, **options):
        model, x, y = problem()
        given = {"batch_size": 8, "optimizer": Apart(list(model.parameters())), **options}
        fit(model, x, y, epochs=epochs, loss=cross_entropy, **given)
        return weights(model)

    whole, path = run(2), tmp_path / "c.pt"
    run(1, save=path)
    assert torch.equal(run(2, save=path, resume=True), whole)
