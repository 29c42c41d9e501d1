"""compiled="cudagraphs" over a stand-in for CUDA graphs: as the eager step; what is refused."""

import copy

import pytest
import torch
from torch import Tensor, nn

import jacfast.step.step
from jacfast import Frobenius
from jacfast.step.traced.capture import elsewhere
from jacfast.step.traced.graph import Call, Graph, Value
from tests.step.changing import CHANGING, SHAPE
from tests.step.entries import ENTRIES
from tests.step.networks import SIX, build
from tests.step.others import OTHERS
from tests.step.steps import assert_same, fast, gradient, loss_of, step
from tests.step.test_gradients import PENALTIES
from tests.step.tracing import assert_as_plain, assert_traced, plans, update

META = torch.device("meta")


@pytest.fixture(autouse=True)
def _on_any_device(monkeypatch) -> None:
    """Let calls on any device ask for CUDA graphs."""
    monkeypatch.setattr(jacfast.step.step, "backend_of", lambda step, *rest: step.compiled)


# What is captured is the traced step, see test_traced.py: each network, and each penalty twice.
PAIRS = [(name, "one projection") for name in SIX]
PAIRS += [(name, p) for name in ("tutorial", "vit") for p in ("exact", "l1", "spectral")]


@pytest.mark.filterwarnings("error:forward_with_penalty runs")
@pytest.mark.parametrize(("name", "penalty"), PAIRS)
def test_the_six(cuda, name, penalty):
    """With other parameters, draws, masks and x in each replay."""
    model, x, y = build(name, 5)
    for seed in range(3):
        assert_as_plain(model, x + seed, y, PENALTIES[penalty], seed, compiled="cudagraphs")
        update(model)
    assert_traced(model, 1)
    assert len(cuda.captures) == 2


@pytest.mark.usefixtures("cuda", "never_eager")
@pytest.mark.parametrize("name", ["spectral norm", "dropout", "instance norm", "batch norm"])
def test_what_changes_in_a_call(name):
    """Buffers, masks and what the generator gives next."""
    torch.manual_seed(5)
    options = {"batch_norm": "coupled"} if name == "batch norm" else {}
    model, x, y = build("resnet", 6)
    if not options:
        model, x, y = CHANGING[name]().double(), torch.randn(6, *SHAPE).double(), y % 3
    twin = copy.deepcopy(model.train())
    for i in range(3):
        got = step(fast, model, x + i, y, Frobenius(), i, compiled="cudagraphs", **options)
        drawn = torch.rand(1)
        assert_same(got, step(fast, twin, x + i, y, Frobenius(), i, **options))
        assert_same(model.buffers(), twin.buffers())
        assert torch.equal(drawn, torch.rand(1))


@pytest.mark.usefixtures("cuda", "never_eager")
def test_calls_before_the_backward_pass_of_the_last_and_parts_of_the_loss():
    model, x, y = build("mlp")
    want = step(fast, model, x, y, Frobenius("exact"))[2]
    call = (model, x, y, Frobenius("exact"))
    losses = [loss_of(*fast(*call, compiled="cudagraphs"), y) for _ in "ab"]
    for loss in losses:
        assert_same([gradient(loss, model)], [want])
    for part in range(2):
        found = []
        for compiled in (None, "cudagraphs"):
            outputs = fast(*call, compiled=compiled)
            found.append(gradient(outputs[part].square().sum(), model))
        assert_same(found[:1], found[1:])


@pytest.mark.usefixtures("cuda", "never_eager")
def test_a_gradient_that_depends_on_nothing():
    """That of a linear model's penalty in x."""
    model, x = nn.Linear(4, 3).double().requires_grad_(False), torch.randn(2, 4).double()
    x.requires_grad_()
    for _ in range(2):
        _, value = fast(model, x, None, Frobenius("exact"), compiled="cudagraphs")
        (found,) = torch.autograd.grad(value, x, materialize_grads=True)
        assert not found.any()


class Beside(nn.Module):
    """A layer, and something that is not where it is."""

    def __init__(self, between) -> None:
        super().__init__()
        self.layer, self.between = nn.Linear(3, 3, device=META), between
        self.number, self.row = torch.tensor(2.0), torch.ones(3)

    def forward(self, x: Tensor) -> Tensor:
        return self.between(self, self.layer(x)).tanh()


BESIDE = {
    "a number": (lambda m, h: h * m.number, "aten.mul.Tensor"),
    "a draw": (lambda m, h: h * torch.rand(()), "aten.rand.default"),
    "a copy of an attribute": (lambda m, h: h + m.row.to(h.device), "aten._to_copy.default"),
    "a copy of a constant": (lambda m, h: h + torch.tensor([1.0]).to(h), "aten.clone.default"),
    "an index": (lambda m, h: h[:, torch.tensor([2, 0])], "aten.clone.default"),
}


@pytest.mark.parametrize("kind", BESIDE)
def test_with_a_tensor_on_another_device_it_runs_traced_and_says_so(cuda, kind):
    """The meta device stands for a GPU, beside which something is on the CPU."""
    between, place = BESIDE[kind]
    model, x = Beside(between), torch.ones(4, 3, device=META)
    text = f"traced, and not as CUDA graphs, because of a tensor on cpu beside .* meta, {place}"
    with pytest.warns(UserWarning, match=text):
        fast(model, x, None, Frobenius(), compiled="cudagraphs")
    logits, value = fast(model, x, None, Frobenius(), compiled="cudagraphs")
    (logits.sum() + value).backward()
    assert_traced(model, 1)
    assert not cuda.captures


def on(index: int) -> Value:
    value = Value()
    value.device = torch.device("cuda", index)
    return value


@pytest.mark.parametrize("place", ["read", "made", "returned"])
def test_a_tensor_on_another_gpu_is_found(place):
    here, there, call = on(0), on(1), torch.ops.aten.mul.Tensor
    args, made = (here, there if place == "read" else 2), there if place == "made" else on(0)
    returned = [None, there if place == "returned" else made]
    graph = Graph([here, there], [Call(call, args, {}, made, False)], returned, {})
    graphs = [Graph([here], [], [here], {}), graph]
    text = "a tensor on cuda:1 beside those on cuda:0, "
    text += "returned" if place == "returned" else "aten.mul.Tensor"
    assert elsewhere(graphs, torch.device("cuda", 0)) == text
    assert elsewhere(graphs[:1], torch.device("cuda", 0)) is None


ALL = [*SIX, *OTHERS, *ENTRIES]
ANY = [name for name in PENALTIES if name != "weights"]  # which are where the user has them


@pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")
@pytest.mark.parametrize(
    ("name", "penalty"), [*((n, "spectral") for n in ALL), *(("tutorial", p) for p in ANY)]
)
def test_a_step_leaves_nothing_on_the_cpu_by_itself(name, penalty):
    model, x, y = (one.to(META) for one in build(name, nets=SIX | OTHERS | ENTRIES))
    fast(model, x, y, PENALTIES[penalty], compiled="traced")
    (plan,) = plans(model)
    assert elsewhere(plan.trace.graphs(), META) is None
