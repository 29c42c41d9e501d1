"""What cannot be traced runs eager, with one warning that names the reason, and is right."""

import contextlib
import random
import threading
import warnings

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.checkpoint import checkpoint

from jacfast import Frobenius, forward_with_penalty
from jacfast.step.traced.refuse import Refused, check_call
from tests.nets import relative_error
from tests.step.changing import CHANGING, SHAPE
from tests.step.networks import build
from tests.step.steps import ROUNDING, assert_same, fast, gradient, loss_of, plain, step
from tests.step.tracing import plans

aten = torch.ops.aten
LOOKED_UP = torch.full((6,), 2.0, dtype=torch.float64)
SOURCE = torch.Generator()
NUMPY = np.random  # the one source of the process, as old code draws from it


class Doubling(torch.autograd.Function):
    """2 x, whose backward pass goes through NumPy."""

    @staticmethod
    def forward(ctx, x):
        return 2 * x

    @staticmethod
    def backward(ctx, g):
        return OfNumPy.apply(g)


class OfNumPy(torch.autograd.Function):
    @staticmethod
    def forward(ctx, g):
        return torch.from_numpy(2 * g.detach().numpy())

    @staticmethod
    def backward(ctx, t):
        return torch.tensor(2 * t.numpy())


class Net(nn.Module):
    """Two linear layers, and what is done in between."""

    def __init__(self, between) -> None:
        super().__init__()
        self.first, self.last, self.between = nn.Linear(6, 6), nn.Linear(6, 5), between
        self.kept, self.calls = None, 0

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.between(self, self.first(x)).tanh())


def kept(model, h):
    model.kept = h
    return h


def side_loss(model, h):
    """Kept on the side, where a call before has left another: nobody could tell them apart."""
    model.loss = h.square().mean()
    return h


def side_losses(model, h):
    model.losses[0] = h.square().mean()
    return h


def counted(model, h):
    model.calls += 1
    return h * model.calls


def masked(model, h):
    h = h.clone()
    return h * (1 + len(h[h.detach() > 0]))


def forked(model, h):
    with torch.random.fork_rng():
        noise = torch.rand(())
    return h * noise


def changed_in_place(model, h):
    with torch.no_grad():
        model.last.bias.clamp_(-1, 1)
    return h


def shared(model, h):
    model.columns.add_(1)
    return h * model.all.sum()


BETWEEN = {
    "item": (lambda m, h: h * h.sum().item(), "depend on values"),
    "branch": (lambda m, h: h if h.sum() > 0 else 2 * h, "depend on values"),
    "mask": (masked, "depend on values"),
    "nonzero": (lambda m, h: h * len((h > 0).nonzero()), "depend on values"),
    "numpy": (lambda m, h: h * float(h.detach().numpy().max()), "Python's hands"),
    "array": (lambda m, h: h * float(np.asarray(h.detach()).max()), "Python's hands"),
    "tolist": (lambda m, h: h * max(h.tolist()[0]), "Python's hands"),
    "a global tensor": (lambda m, h: h * LOOKED_UP, r"shape \[6\] that is no input"),
    "from NumPy": (lambda m, h: Doubling.apply(h), "Python's hands"),
    "a kept tensor": (kept, "the call changes kept of a Net"),
    "a side loss": (side_loss, "the call changes loss of a Net"),
    "a side loss in a list": (side_losses, "the call changes losses of a Net"),
    "a counter": (counted, "the call changes calls of a Net"),
    "a parameter in place": (changed_in_place, "a parameter in place"),
    "shared memory": (shared, "shared memory or a parameter in place"),
    "random": (lambda m, h: h * random.random(), "random numbers of Python or NumPy"),
    "numpy.random": (lambda m, h: h * NUMPY.rand(), "random numbers of Python or NumPy"),
    "a generator": (lambda m, h: h * torch.rand(6, generator=SOURCE), "torch.Generator"),
    "a fork": (forked, "random numbers that are set or drawn"),
    "checkpointed dropout": (
        lambda m, h: checkpoint(lambda h: F.dropout(h, 0.3), h, use_reentrant=False),
        "random numbers that are set or drawn",
    ),
}


def net(between) -> tuple[nn.Module, Tensor, Tensor]:
    torch.manual_seed(0)
    model = Net(between).double()
    model.loss = model.first.weight.mean()
    model.losses = [model.first.weight.mean()]
    model.register_buffer("all", torch.zeros(2, 2))
    model.register_buffer("columns", model.all[:, :1])
    return model, torch.randn(5, 6).double(), torch.arange(5)


def numbers(between, compiled):
    """Return what three steps give, for a model that is made anew."""
    model, x, y = net(between)
    for seed in (random.seed, NUMPY.seed, SOURCE.manual_seed, torch.manual_seed):
        seed(0)
    found = []
    for i in range(3):
        logits, value = fast(model, x + i, y, Frobenius(), compiled=compiled)
        found += [logits.detach(), value.detach(), gradient(loss_of(logits, value, y), model)]
    return found


@pytest.mark.parametrize("kind", BETWEEN)
def test_it_runs_eager_and_says_why(kind):
    between, reason = BETWEEN[kind]
    with pytest.warns(UserWarning, match=f"runs eager, and not compiled=.*{reason}") as said:
        got = numbers(between, "traced")
    assert len(said) == 1
    if kind in ("random", "numpy.random", "a generator", "a counter"):
        assert all(one.isfinite().all() for one in got)
    assert_same(got, numbers(between, None))


@pytest.mark.parametrize("register", ["forward", "forward_pre", "full_backward"])
def test_hooks_on_modules(register):
    model, x, y = build("mlp")
    calls = []
    getattr(model[0], f"register_{register}_hook")(lambda *args: calls.append(1) and None)
    with pytest.warns(UserWarning, match=r"runs eager.*a hook on a Linear"):
        fast(model, x, y, Frobenius("exact"), compiled="traced")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        outputs = fast(model, x, y, Frobenius("exact"), compiled="traced")
    got = gradient(loss_of(*outputs, y), model)
    assert calls
    assert relative_error(got, step(plain, model, x, y, Frobenius("exact"))[2]) < ROUNDING


def test_hooks_on_all_modules():
    model, x, y = build("mlp")
    calls = []
    hook = nn.modules.module.register_module_forward_hook(lambda *args: calls.append(1) and None)
    try:
        with pytest.warns(UserWarning, match="runs eager.*hooks on all modules"):
            fast(model, x, y, Frobenius(), compiled="traced")
    finally:
        hook.remove()
    assert calls
    assert not plans(model)


def test_hooks_on_saved_tensors_and_cached_parametrizations():
    model, x, y = build("mlp")
    nn.utils.parametrizations.weight_norm(model[0])
    want = step(plain, model, x, y, Frobenius("exact"))
    for context, reason in (
        (torch.autograd.graph.save_on_cpu(), "hooks on saved tensors"),
        (nn.utils.parametrize.cached(), "cached"),
    ):
        with pytest.warns(UserWarning, match=f"runs eager.*{reason}"), context:
            assert_same(step(fast, model, x, y, Frobenius("exact"), compiled="traced"), want)
    assert not plans(model)


@pytest.mark.filterwarnings("ignore:Anomaly Detection")
def test_anomaly_mode_and_afterwards():
    """Its looks for NaN are no control flow of the model's: the next call is recorded."""
    model, x, y = build("mlp")
    said = pytest.warns(UserWarning, match="runs eager.*detect_anomaly")
    with said, torch.autograd.detect_anomaly():
        fast(model, x, y, Frobenius(), compiled="traced")
    assert not plans(model)
    fast(model, x, y, Frobenius(), compiled="traced")
    assert len(plans(model)) == 1


def test_a_module_of_torch_jit():
    model, x, y = build("mlp")
    want = step(plain, model, x, y, Frobenius("exact"))[:2]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        other = torch.jit.script(model)
    with pytest.warns(UserWarning, match=r"runs eager.*a module of torch\.jit"):
        got = fast(other, x, y, Frobenius("exact"), compiled="traced")
    assert_same([t.detach() for t in got], want)


def test_changing_attributes():
    torch.manual_seed(0)
    model, x = CHANGING["counting"](), torch.randn(4, *SHAPE)
    with pytest.warns(UserWarning, match="runs eager.*the call changes"):
        fast(model, x, None, Frobenius(), compiled="traced")
    assert (model.calls, len(model.sizes), int(model.steps)) == (1, 1, 1)


@pytest.mark.filterwarnings("ignore:Accessing the data pointer of FakeTensor")
def test_what_a_gpu_would_wait_for():
    """By tensors of which only the kinds are known."""
    put, copied, copy = aten.index_put_.default, aten._to_copy.default, aten.copy_.default
    to_host, to_gpu = {"device": torch.device("cpu")}, {"device": torch.device("cuda")}
    with FakeTensorMode():
        there, here, number = torch.empty(4, 3, device="cuda"), torch.empty(4, 3), torch.empty(())
        index, mask = (torch.empty_like(there, dtype=kind) for kind in (torch.int64, torch.bool))
        for func, args, kwargs, reason in (
            (put, (there, [mask], there), {}, "a mask that the host must count"),
            (copied, (there,), to_host, "a copy from the device to the host"),
            (copy, (there, here), {}, "a copy between devices"),
            (copy, (here, there), {}, "a copy between devices"),
        ):
            with pytest.raises(Refused, match=f"{reason}, aten"):
                check_call(func, args, kwargs, set())
        for func, args, kwargs in (
            (put, (there, [None, index], there), {}),
            (put, (here, [torch.empty(4, 3).bool()], here), {}),
            (copied, (here,), to_host),
            (copied, (here,), to_gpu),
            (copied, (there,), to_gpu),
            (copy, (there, there), {}),
            (aten.add_.Tensor, (there, number), {}),
        ):
            check_call(func, args, kwargs, set())


class Turning(nn.Linear):
    def forward(self, x: Tensor, turn: Tensor) -> Tensor:
        return super().forward((x * turn).imag)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:Torchinductor does not")
@pytest.mark.parametrize("compiled", ["traced", "inductor"])
@pytest.mark.parametrize("negated", [True, False])
def test_tensors_that_are_conjugated_or_negated_by_a_mark(compiled, negated):
    """Their memory holds other numbers, which is what compiled code reads."""
    torch.manual_seed(0)
    model = Turning(6, 3).double()
    z, turn = torch.randn(4, 6, dtype=torch.complex128), torch.randn(6, dtype=torch.complex128)
    usual = (z.imag.clone(), turn)
    marked = (z.conj().imag, turn) if negated else (z.imag.clone(), turn.conj())
    assert (marked[0].is_neg(), marked[1].is_conj()) == (negated, not negated)
    warned = pytest.warns(UserWarning, match="runs eager.*conjugated or negated by a mark")
    silent = contextlib.nullcontext()
    for (x, by), said in ((usual, silent), (marked, warned), (marked, silent)):
        with said:
            logits, value = forward_with_penalty(
                model, x, penalty=Frobenius("exact"), args=(by,), compiled=compiled
            )
        by, weight = torch.from_numpy(by.numpy(force=True)).imag, model.weight.detach()
        want = torch.from_numpy(x.numpy(force=True)) * by @ weight.T + model.bias.detach()
        assert_same([logits.detach()], [want])
        assert_same([value.detach()], [(weight * by).square().sum()])


@pytest.mark.parametrize("namespace", ["c10d", "_c10d_functional"])
def test_calls_to_other_processes(namespace):
    name = {"c10d": "allreduce_", "_c10d_functional": "all_reduce"}[namespace]
    func = getattr(getattr(torch.ops, namespace), name).default
    with pytest.raises(Refused, match=f"communication with other processes, {namespace}.{name}"):
        check_call(func, (torch.ones(2),), {}, set())


def test_an_error_speaks_for_itself():
    model, x, y = build("mlp")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(2):
            with pytest.raises(ValueError, match=r"n must be in 1 \.\. K = 5"):
                fast(model, x, y, Frobenius(9), compiled="traced")
        for options, text in (({"batch_norm": "no"}, "batch_norm"), ({"layer": "no"}, "layer")):
            with pytest.raises(ValueError, match=f"{text} must"):
                fast(model, x, y, Frobenius(), compiled="traced", **options)
        with pytest.raises(RuntimeError, match="inference_mode"), torch.inference_mode():
            fast(model, x, y, Frobenius(), compiled="traced")


def test_two_threads_wait_for_one_trace():
    between, _ = BETWEEN["item"]
    model, x, y = net(between)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        call, options = (model, x, y, Frobenius("exact")), {"compiled": "traced"}
        threads = [threading.Thread(target=fast, args=call, kwargs=options) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len([w for w in said if "runs eager" in str(w.message)]) == 1
