"""The training loop: what it computes, what it leaves alone, what it refuses."""

from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

import jacfast
from jacfast.files import write_atomically
from jacfast.training import Defence, checkpoint, fit
from tests.training.problem import cross_entropy, problem


def test_equals_the_loop_by_hand():
    model, x, y = problem()
    twin, _, _ = problem()
    fit(model, x, y, epochs=3, batch_size=8, lr=0.01, loss=cross_entropy, seed=7)
    order = torch.Generator().manual_seed(7)
    adam = torch.optim.Adam(twin.parameters(), lr=0.01)
    for _ in range(3):
        for batch in torch.randperm(30, generator=order).split(8):
            adam.zero_grad()
            cross_entropy(twin, x[batch], y[batch]).backward()
            adam.step()
    assert all(
        torch.equal(a, b) for a, b in zip(model.parameters(), twin.parameters(), strict=True)
    )


def test_random_state_is_as_before():
    model, x, y = problem()
    state = torch.get_rng_state()

    def noisy(model, xb, yb):
        return cross_entropy(model, xb + torch.randn_like(xb), yb)

    fit(model, x, y, epochs=1, batch_size=8, lr=0.01, loss=noisy)
    assert torch.equal(torch.get_rng_state(), state)


def test_a_loss_that_is_not_finite_stops_with_advice(tmp_path):
    model, x, y = problem()
    calls = []

    def failing(model, xb, yb):
        calls.append(1)
        return cross_entropy(model, xb, yb) * (float("nan") if len(calls) > 5 else 1)

    with pytest.raises(
        FloatingPointError, match=r"got nan in epoch 2 of fit: lower lr \(now 0.01\)"
    ):
        fit(
            model, x, y, epochs=3, batch_size=8, lr=0.01, loss=failing, save=tmp_path / "c.pt"
        )  # fmt: skip
    assert checkpoint.read(tmp_path / "c.pt", None)["epoch"] == 1


def test_pgd_from_the_global_generator_is_resumed_to_the_bit(tmp_path):
    def run(file, epochs, resume=False):
        torch.rand(3)  # the caller's state differs each time
        model, x, y = problem()
        attack = partial(jacfast.pgd, eps=0.1, clip=None, generator=torch.default_generator)
        options = {"batch_size": 8, "lr": 0.01, "save": tmp_path / file}
        fit(model, x, y, epochs=epochs, loss=Defence(attack=attack), resume=resume, **options)
        return torch.cat([p.detach().flatten() for p in model.parameters()])

    whole = run("whole.pt", epochs=2)
    run("parted.pt", epochs=1)
    assert torch.equal(run("parted.pt", epochs=2, resume=True), whole)


@pytest.mark.parametrize(
    ("kind", "text", "options"),
    [
        (ValueError, "epochs must be >= 0; got -1", {"epochs": -1}),
        (ValueError, "batch_size must be >= 1; got 0", {"batch_size": 0}),
        (TypeError, "batch_size must be an integer; got 2.5", {"batch_size": 2.5}),
        (TypeError, "lr must be a number; got str", {"lr": "0.1"}),
        (ValueError, "lr must be finite and >= 0; got nan", {"lr": float("nan")}),
        (TypeError, "seed must be an integer; got 1.5", {"seed": 1.5}),
        (ValueError, r"seed must be <= 2\^64 - 1; got 1180591620717411303424", {"seed": 2**70}),
        (ValueError, "seed must be >= -9223372036854775808; got -1180", {"seed": -(2**70)}),
        (TypeError, "loss must return a scalar tensor; got float", {"loss": lambda m, x, y: 0.5}),
        (
            ValueError,
            r"loss must return a scalar tensor; got shape \[8, 3\]",
            {"loss": lambda m, x, y: m(x)},
        ),
        (
            ValueError,
            "loss must depend on the model's parameters",
            {"loss": lambda m, x, y: m(x).sum().detach()},
        ),
        (ValueError, "save must be the file to resume from; got None", {"resume": True}),
        (
            ValueError,
            "x and y must be as long, and not empty; got 30 and 29",
            {"y": torch.ones(29)},
        ),
        (ValueError, "and not empty; got 0 and 0", {"x": torch.ones(0, 5), "y": torch.ones(0)}),
    ],
)
def test_bad_input_is_refused(kind, text, options):
    model, x, y = problem()
    given = {
        "x": x,
        "y": y,
        "epochs": 1,
        "batch_size": 8,
        "lr": 0.01,
        "loss": cross_entropy,
        **options,
    }
    with pytest.raises(kind, match=text):
        fit(model, **given)


def test_a_frozen_model_is_refused():
    model, x, y = problem()
    with pytest.raises(ValueError, match="model must have a parameter with requires_grad"):
        fit(
            model.requires_grad_(False), x, y, epochs=1, batch_size=8, lr=0.01, loss=cross_entropy
        )  # fmt: skip


@pytest.mark.parametrize("seed", [np.int64(3), 2**64 - 1, -(2**63)])
def test_every_seed_of_pytorch(seed):
    got = []
    for given in (seed, int(seed)):
        model, x, y = problem()
        fit(model, x, y, epochs=1, batch_size=8, lr=0.01, loss=cross_entropy, seed=given)
        got.append(torch.cat([p.detach().flatten() for p in model.parameters()]))
    assert torch.equal(*got)


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "file"
    write_atomically(b"old", path)
    (ordinary := tmp_path / "ordinary").touch()
    assert path.stat().st_mode == ordinary.stat().st_mode
    ordinary.unlink()
    with pytest.raises(TypeError, match="bytes-like object is required"):
        write_atomically("not bytes", path)  # type: ignore[arg-type]
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_parameter_without_a_gradient_stays():
    """Also one that has a gradient from before, by which weight decay would move it."""
    model, x, y = problem()
    model.spare = nn.Parameter(torch.ones(2))
    model.spare.grad = torch.ones(2)
    optimizer = torch.optim.SGD(model.parameters(), 0.1, weight_decay=0.5)
    loss = lambda model, x, y: cross_entropy(model[:], x, y)  # noqa: E731
    fit(model, x, y, epochs=1, batch_size=8, loss=loss, optimizer=optimizer)
    assert model.spare.tolist() == [1, 1]
