"""What contenders are held against: float64 autograd with the contenders' draws."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import jacfast
from jacfast.timing import measure
from jacfast.timing.contenders import contenders
from jacfast.timing.task import prepare
from jacfast.timing.verify import Oracle, gradient, without_draws
from tests import nets
from tests.nets import draw

ESTIMATES = [
    jacfast.Frobenius(),
    jacfast.Frobenius(3),
    jacfast.Frobenius(subsample=0.5),
    jacfast.CrossLipschitz(2),
    jacfast.InputGradient(),
    jacfast.InputGradient(subsample=0.25),
    jacfast.DecisionFunction("l2"),
    jacfast.ColumnSumL1(),
    jacfast.EntrywiseL1(2),
    jacfast.Spectral(2),
    jacfast.WGANGP(0.5),
    jacfast.R1(),
    jacfast.R2(),
]


def task_of(model, penalty=None, x=None, **options):
    torch.manual_seed(1)
    x = torch.randn(8, 6) if x is None else x
    options = {"args": (), "kwargs": None, "output": None} | options
    return prepare(model, x, None, penalty or jacfast.Frobenius(), 0.3, **options)


def test_the_exact_gradient_is_that_of_the_jacobian():
    model = nets.smooth_mlp()
    task = task_of(model)
    found, allowed = Oracle(task, 0).gradient(jacfast.Frobenius("exact"))
    double = nets.smooth_mlp().double()
    double.load_state_dict({k: v.double() for k, v in model.state_dict().items()})
    x = task.x.double()
    jacobian = torch.autograd.functional.jacobian(double, x, create_graph=True)
    diagonal = torch.stack([jacobian[i, :, i] for i in range(len(x))])
    loss = F.cross_entropy(double(x), task.y) + 0.3 * diagonal.square().sum() / len(x)
    want = torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(double.parameters()))])
    torch.testing.assert_close(found, want, rtol=1e-10, atol=1e-12)
    assert allowed == 2e-3


@pytest.mark.parametrize("penalty", ESTIMATES, ids=repr)
def test_our_step_draws_what_the_oracle_draws(penalty):
    task = task_of(nets.smooth_mlp(), penalty)

    def step() -> None:
        y = task.y if penalty.needs_labels else None
        logits, value = jacfast.forward_with_penalty(task.model, task.x, y, penalty=penalty)
        (F.cross_entropy(logits, task.y) + 0.3 * value).backward()

    found, (want, _) = gradient(task, step), Oracle(task, 0).gradient(penalty)
    assert float((found - want).norm() / want.norm()) < 1e-5


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_every_contender_draws_the_same(dtype):
    model = nets.smooth_mlp().to(dtype)
    task = task_of(model, x=torch.randn(8, 6, dtype=dtype))
    oracle, seen = Oracle(task, 0), 0
    for one in contenders(task, ("one-vector", "jacobian-reg", "one-line", "loop"), 0.25):
        if one.penalty is not None and "inductor" not in one.name:
            want, allowed = oracle.gradient(one.penalty)
            found = gradient(task, one.run)
            assert float((found - want).norm() / want.norm()) < min(allowed, 0.05), one.name
            seen += 1
    assert seen == 9


def test_no_copy_where_memory_lacks(monkeypatch):
    task = task_of(nets.smooth_mlp())
    assert Oracle(task, 1000).words == "float64"
    monkeypatch.setattr("jacfast.timing.verify.free_bytes", lambda device: 3_000_000)
    assert Oracle(task, 700_000).words == "float64"
    assert Oracle(task, 800_000).words.startswith("float32 (a copy in float64 would need 0.0 GB")


def test_a_model_with_a_dtype_of_its_own_is_checked_in_that():
    class Single(nn.Linear):
        def forward(self, x):
            return F.linear(x.float(), self.weight.float(), self.bias.float())

    task = task_of(Single(6, 5))
    oracle = Oracle(task, 0)
    assert "a copy of the model in float64 returns torch.float32" in oracle.words
    assert oracle.gradient(task.penalty)[0].isfinite().all()


class Noisy(nn.Module):
    """Draws, in eval mode too if asked for."""

    def __init__(self, always: bool) -> None:
        super().__init__()
        self.linear, self.always = nn.Linear(6, 5), always

    def forward(self, x):
        noise = torch.rand(()) if self.training or self.always else 1.0
        return self.linear(x) * noise


def test_models_that_draw_are_checked_without_it():
    dropping = nn.Sequential(nn.Linear(6, 9), nn.Dropout(), nn.BatchNorm1d(9), nn.Linear(9, 5))
    for model, words in (
        (nets.mlp(), ""),
        (dropping, "without dropout"),
        (Noisy(False), "in eval mode, because the model draws"),
        (Noisy(True), "in eval mode, because the model draws, in which it draws, too"),
    ):
        task = task_of(model)
        with without_draws(task) as said:
            assert said == words
            still = "float32 (the model draws, in float64 something else)"
            assert Oracle(task, 0).words == (still if "draws, too" in words else "float64")
        assert model.training
    assert dropping[2].training


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_what_a_model_that_draws_is_held_against_does_not(dtype, monkeypatch):
    """Of each contender, too: the gradients are those of the model in eval mode."""
    smooth = nets.smooth_mlp().to(dtype)
    model = nn.Sequential(smooth, nn.Dropout(), nn.Linear(5, 5).to(dtype))
    x, y, exact = draw(8, 6, dtype=dtype), torch.arange(8) % 5, jacfast.Frobenius("exact")
    compared = []
    compare = measure.error
    monkeypatch.setattr(measure, "error", lambda *both: compared.append(both) or compare(*both))
    result = jacfast.bench(
        model, x, y, exact, lam=0.3, against=("loop", "one-line"), seconds=0, subsample=None
    )
    assert model[1].training
    assert "autograd in float64, the same draws, without dropout" in result.check
    double, x = copy.deepcopy(model).double().eval(), x.double()
    jacobian = torch.autograd.functional.jacobian(double, x, create_graph=True)
    diagonal = torch.stack([jacobian[i, :, i] for i in range(len(x))])
    loss = F.cross_entropy(double(x), y) + 0.3 * diagonal.square().sum() / len(x)
    want = torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(double.parameters()))])
    assert len(compared) == len([row for row in result.rows if row.error is not None]) > 3
    for found, truth in compared:
        torch.testing.assert_close(truth, want, rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(found, want, rtol=1e-4, atol=1e-5)
    if dtype == torch.float32:  # none is the very sum of operations that it is held against
        assert all(0 < row.error < 1e-5 for row in result.rows if row.error is not None)


def test_a_look_whether_a_model_draws_leaves_it_as_it_was():
    """And its copy in float64 begins where it does: a spectral norm moves in every call."""
    torch.manual_seed(0)
    layer = nn.utils.parametrizations.spectral_norm(nn.Linear(6, 9))
    model = nn.Sequential(layer, nn.Dropout(), nn.Linear(9, 5))
    task = task_of(model)
    before = [buffer.clone() for buffer in model.buffers()]
    with without_draws(task):
        oracle = Oracle(task, 0)
        for start, own, double in zip(
            before, model.buffers(), oracle.best.called.buffers(), strict=True
        ):
            assert torch.equal(own, start)
            torch.testing.assert_close(double, start.double(), rtol=0, atol=0)
    assert oracle.words == "float64"


def test_each_gradient_begins_where_the_first_began():
    """Of a model that moves in every call."""
    model = nn.Sequential(nn.Linear(6, 9), nn.Tanh(), nn.Linear(9, 5))
    model.register_buffer("scale", torch.ones(()))
    model.register_forward_hook(lambda net, _x, y: y * net.scale.add_(0.5).clone())
    task = task_of(model)
    oracle = Oracle(task, 0)
    first, again = (oracle.gradient(jacfast.Frobenius("exact"))[0] for _ in range(2))
    assert torch.equal(first, again)
