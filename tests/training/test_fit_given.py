"""`fit` with one's own optimizer, scheduler and DataLoader: as the loop by hand, and resumed."""

import numpy as np
import pytest
import torch
from torch.optim import lr_scheduler
from torch.utils.data import BatchSampler, DataLoader, RandomSampler, TensorDataset

from jacfast.training import Defence, fit
from tests.training.problem import cross_entropy, problem

OPTIMIZERS = {
    "SGD": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True),
    "AdamW": lambda p: torch.optim.AdamW(p, lr=0.01),
    "RMSprop": lambda p: torch.optim.RMSprop(p, lr=0.01),
    "LBFGS": lambda p: torch.optim.LBFGS(p, lr=0.1, max_iter=3),
}
SCHEDULERS = {
    "StepLR": (lambda o: lr_scheduler.StepLR(o, 1, 0.5), "epoch"),
    "plateau": (lambda o: lr_scheduler.ReduceLROnPlateau(o, patience=0, threshold=0.9), "epoch"),
    "OneCycleLR": (
        lambda o: lr_scheduler.OneCycleLR(o, 0.1, total_steps=16, cycle_momentum=False),
        "step",
    ),
    "CosineAnnealingLR": (lambda o: lr_scheduler.CosineAnnealingLR(o, 4), "epoch"),
}


def by_hand(model, batches, optimizer, scheduler, interval, epochs):
    for _ in range(epochs):
        total, samples = 0.0, 0
        for x, y in batches():

            def closure(x=x, y=y):
                optimizer.zero_grad()
                loss = cross_entropy(model, x, y)
                loss.backward()
                return loss

            total += len(x) * float(optimizer.step(closure).detach())
            samples += len(x)
            if scheduler and interval == "step":
                scheduler.step()
        if scheduler and interval == "epoch":
            plateau = isinstance(scheduler, lr_scheduler.ReduceLROnPlateau)
            scheduler.step(total / samples) if plateau else scheduler.step()


def weights(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()])


@pytest.mark.parametrize("scheduler", [None, *SCHEDULERS])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_equals_the_loop_by_hand(optimizer, scheduler):
    make, interval = SCHEDULERS.get(scheduler, (lambda _: None, "epoch"))
    model, x, y = problem()
    own = OPTIMIZERS[optimizer](model.parameters())
    options = {"optimizer": own, "scheduler": make(own), "scheduler_interval": interval}
    fit(model, x, y, epochs=4, batch_size=8, loss=cross_entropy, seed=7, **options)
    twin, _, _ = problem()
    other = OPTIMIZERS[optimizer](twin.parameters())
    order = torch.Generator().manual_seed(7)

    def batches():
        for batch in torch.randperm(30, generator=order).split(8):
            yield x[batch], y[batch]

    by_hand(twin, batches, other, make(other), interval, 4)
    assert torch.equal(weights(model), weights(twin))
    assert [g["lr"] for g in own.param_groups] == [g["lr"] for g in other.param_groups]


def loader(kind, x, y):
    if kind == "list of mappings":
        return [{"image": x[i : i + 8], "label": y[i : i + 8]} for i in range(0, 30, 8)]
    source = torch.Generator().manual_seed(3) if kind.startswith("own") else None
    if kind == "own batch sampler":
        set_of, chosen = TensorDataset(x, y), RandomSampler(x, generator=source)
        return DataLoader(set_of, batch_sampler=BatchSampler(chosen, 8, drop_last=False))
    return DataLoader(TensorDataset(x, y), 8, shuffle=kind != "in order", generator=source)


KINDS = ["in order", "global generator", "own generator", "own batch sampler", "list of mappings"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_data_loader(kind):
    model, x, y = problem()
    before = torch.get_rng_state()
    fit(model, loader(kind, x, y), epochs=3, lr=0.01, loss=cross_entropy, seed=5)
    assert torch.equal(torch.get_rng_state(), before)
    twin, _, _ = problem()
    torch.manual_seed(5)
    batches = loader(kind, x, y)

    def pairs():
        for batch in batches:
            yield batch.values() if isinstance(batch, dict) else batch

    by_hand(twin, pairs, torch.optim.Adam(twin.parameters(), lr=0.01), None, "epoch", 3)
    assert torch.equal(weights(model), weights(twin))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_resumed_to_the_bit(kind, scheduler, tmp_path):
    make, interval = SCHEDULERS[scheduler]

    def run(file, epochs, resume=False):
        torch.rand(3)  # the caller's state differs each time
        model, x, y = problem()
        own = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        options = {"optimizer": own, "scheduler": make(own), "scheduler_interval": interval}
        options |= {"save": tmp_path / file, "resume": resume}
        fit(model, loader(kind, x, y), epochs=epochs, loss=Defence(), **options)
        return weights(model), own.param_groups[0]["lr"]

    whole, rate = run("whole.pt", 4)
    run("parted.pt", 2)
    again, rate_again = run("parted.pt", 4, resume=True)
    assert torch.equal(again, whole)
    assert rate == rate_again


def test_another_optimizer_or_scheduler_is_another_run(tmp_path):
    def run(kind, resume):
        model, x, y = problem()
        own = kind(model.parameters(), lr=0.1)
        options = {"optimizer": own, "save": tmp_path / "c.pt", "resume": resume}
        fit(model, x, y, epochs=1, batch_size=8, loss=cross_entropy, **options)

    run(torch.optim.SGD, False)
    with pytest.raises(ValueError, match="optimizer was 'SGD' and is now 'AdamW'"):
        run(torch.optim.AdamW, True)


@pytest.mark.parametrize(
    ("text", "then", "now", "schedule"),
    [
        ("optimizer, group 0: lr was 0.1 and is now 0.2", {}, {"lr": 0.2}, None),
        ("momentum was 0.9 and is now 0.5", {"momentum": 0.9}, {"momentum": 0.5}, None),
        ("optimizer, group 0: weight_decay was 0 ", {}, {"weight_decay": 0.01}, None),
        ("scheduler: gamma was 0.5 and is now 0.1", {}, {}, (0.5, 0.1)),
    ],
)
def test_other_options_would_be_ignored_and_are_refused(text, then, now, schedule, tmp_path):
    """PyTorch's load_state_dict brings those of the checkpoint back, without a word."""

    def run(options, gamma, epochs, **where):
        model, x, y = problem()
        own = torch.optim.SGD(model.parameters(), **{"lr": 0.1, **options})
        follows = None if gamma is None else lr_scheduler.StepLR(own, 1, gamma)
        options = {"optimizer": own, "scheduler": follows, "batch_size": 8, **where}
        fit(model, x, y, epochs=epochs, loss=cross_entropy, save=tmp_path / "c.pt", **options)

    gammas = schedule or (None, None)
    run(then, gammas[0], 1)
    with pytest.raises(ValueError, match=text):
        run({**then, **now}, gammas[1], 2, resume=True)
    run({**then, "foreach": True}, gammas[0], 2, resume=True)
    with pytest.raises(ValueError, match=text):  # as it began, not as it went on
        run({**then, **now}, gammas[1], 3, resume=True)


def test_the_same_optimizer_goes_on_and_its_scheduler_too(tmp_path):
    model, x, y = problem()
    own = torch.optim.SGD(model.parameters(), lr=0.1)
    options = {"optimizer": own, "scheduler": lr_scheduler.StepLR(own, 1, 0.5), "batch_size": 8}
    options |= {"loss": cross_entropy, "save": tmp_path / "c.pt"}
    fit(model, x, y, epochs=2, **options)
    for epochs in (3, 4):
        fit(model, x, y, epochs=epochs, resume=True, **options)
    assert own.param_groups[0]["lr"] == 0.1 / 16
    fresh, _, _ = problem()
    own = torch.optim.SGD(fresh.parameters(), lr=0.1)
    options |= {"optimizer": own, "scheduler": lr_scheduler.StepLR(own, 1, 0.5)}
    fit(fresh, x, y, epochs=4, resume=True, **options)
    assert torch.equal(weights(fresh), weights(model))


def test_an_optimizer_is_as_it_was_where_the_model_is_refused(tmp_path):
    model, x, y = problem()
    own = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    options = {"batch_size": 8, "loss": cross_entropy, "save": tmp_path / "c.pt"}
    fit(model, x, y, epochs=1, optimizer=own, **options)
    other, _, _ = problem()
    twice = torch.nn.Sequential(*other)  # the weights fit, and it does something else
    twice.forward = lambda x: 2 * torch.nn.Sequential.forward(twice, x)
    own = torch.optim.SGD(twice.parameters(), lr=0.1, momentum=0.9)
    with pytest.raises(ValueError, match="belongs to another run"):
        fit(twice, x, y, epochs=2, optimizer=own, resume=True, **options)
    assert not own.state


def sgd(model):
    return torch.optim.SGD(model.parameters(), lr=0.1)


class Measured(lr_scheduler.StepLR):
    """A scheduler whose step needs a value."""

    def __init__(self, optimizer):
        super().__init__(optimizer, 1)

    def _initial_step(self):
        pass

    def step(self, value):
        super().step()


def stepped(model, kind, interval):
    own = sgd(model)
    return {"optimizer": own, "lr": None, "scheduler": kind(own), "scheduler_interval": interval}


@pytest.mark.parametrize(
    ("kind", "text", "make"),
    [
        (ValueError, "lr must be left out beside an optimizer", lambda m: {"optimizer": sgd(m)}),
        (
            TypeError,
            "optimizer must be a torch Optimizer; got str",
            lambda m: {"optimizer": "SGD", "lr": None},
        ),
        (TypeError, "lr must be a number where no optimizer is given", lambda m: {"lr": None}),
        (TypeError, "batch_size must be an integer where x is", lambda m: {"batch_size": None}),
        (
            ValueError,
            "scheduler must be of the optimizer that is given",
            lambda m: {"scheduler": lr_scheduler.StepLR(sgd(m), 1)},
        ),
        (
            ValueError,
            "scheduler must be of the optimizer that is given; got another, or none",
            lambda m: {"optimizer": sgd(m), "lr": None, "scheduler": "cosine"},
        ),
        (
            ValueError,
            "scheduler must have a step.. without arg.* got a ReduceLROnPlateau with 'step'",
            lambda m: stepped(m, lr_scheduler.ReduceLROnPlateau, "step"),
        ),
        (
            ValueError,
            "got a Measured with 'epoch': missing a required argument: 'value'",
            lambda m: stepped(m, Measured, "epoch"),
        ),
        (
            ValueError,
            "scheduler_interval must be one of epoch, step; got 'batch'",
            lambda m: {"scheduler_interval": "batch"},
        ),
        (ValueError, "y must be left out where x is a DataLoader", lambda m: {"x": []}),
        (
            ValueError,
            "batch_size must be left out where x is a DataLoader; got 8",
            lambda m: {"x": [], "y": None},
        ),
        (
            TypeError,
            "x must be a tensor or yield batches; got int",
            lambda m: {"x": 3, "y": None, "batch_size": None},
        ),
        (
            ValueError,
            "x must yield a batch in every epoch",
            lambda m: {"x": iter([]), "y": None, "batch_size": None},
        ),
        (ValueError, "x and y must be as long, and not empty; got no y", lambda m: {"y": None}),
    ],
)
def test_what_does_not_go_together(kind, text, make):
    model, x, y = problem()
    given = {"x": x, "y": y, "batch_size": 8, "lr": 0.01} | make(model)
    with pytest.raises(kind, match=text):
        fit(model, **given, epochs=1, loss=cross_entropy)


def test_a_plateau_sees_the_mean_over_the_samples(monkeypatch):
    """Not over the steps, of which the last has six samples, the others eight."""
    seen = []
    step = lr_scheduler.ReduceLROnPlateau.step
    monkeypatch.setattr(
        lr_scheduler.ReduceLROnPlateau,
        "step",
        lambda self, value: seen.append(value) or step(self, value),
    )
    model, x, y = problem()
    with torch.no_grad():
        model[-1].bias[0] += 5 * x[-1, 0]  # so that the samples of the last step count
    logits = model(x).detach().double().numpy()
    want = np.mean(np.log(np.exp(logits).sum(axis=1)) - logits[np.arange(30), y.numpy()])
    own = torch.optim.SGD(model.parameters(), lr=0.0)
    options = {"optimizer": own, "scheduler": lr_scheduler.ReduceLROnPlateau(own)}
    fit(model, DataLoader(TensorDataset(x, y), 8), epochs=1, loss=cross_entropy, **options)
    assert seen == pytest.approx([want], rel=1e-6)


@pytest.mark.parametrize(("interval", "needed"), [("step", 8), ("epoch", 2)])
def test_a_scheduler_that_would_end_before_the_run_is_refused(interval, needed):
    """It would raise in the last epoch, and a run of other options does not go on from there."""

    def run(steps):
        model, x, y = problem()
        own = sgd(model)
        scheduler = lr_scheduler.OneCycleLR(own, 0.1, total_steps=steps, cycle_momentum=False)
        options = {"optimizer": own, "scheduler": scheduler, "scheduler_interval": interval}
        fit(model, x, y, epochs=2, batch_size=8, loss=cross_entropy, **options)

    run(needed)
    with pytest.raises(ValueError, match=f"total_steps >= {needed}, as the run has; got "):
        run(needed - 1)
