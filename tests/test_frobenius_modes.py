"""frobenius_penalty beside checkpointing, autocast, DDP, torch.compile and custom Functions.

Each must give the gradient of the plain model, or a clear error; never a wrong gradient.
"""

import copy

import pytest
import torch
import torch._dynamo
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import checkpoint

from jacfast import cotangents, frobenius_penalty
from tests.forked import side_by_side
from tests.functions import Cube, CubeNested, CubeOnce
from tests.nets import RTOL, build, draw, relative_error
from tests.testing import whole_steps_compile

TARGET = torch.tensor([0, 1, 2, 3])
DOUBLE_BACKWARD = "does not currently support double backward"
COMPILED = "is compiled .torch.compile., and compiled graphs have no second derivative"


def loss_of(call, x: Tensor, vectors: Tensor) -> Tensor:
    x = x.detach().requires_grad_()
    logits = call(x)
    return F.cross_entropy(logits, TARGET) + frobenius_penalty(logits, x, vectors=vectors)


def gradient(loss: Tensor, model: nn.Module) -> Tensor:
    """Return the gradient of every parameter, joined."""
    grads = torch.autograd.grad(loss, list(model.parameters()), materialize_grads=True)
    return torch.cat([g.flatten() for g in grads])


def vectors_for(n: int, x: Tensor) -> Tensor:
    return draw(n, len(x), 5, dtype=x.dtype)


@pytest.mark.parametrize("n", [1, 3])
@pytest.mark.parametrize("dropout", [0.0, 0.4])
def test_checkpoint(n, dropout):
    model, x = build("cnn")
    model.insert(5, nn.Dropout(dropout))
    grads = []
    for call in (model, lambda x: checkpoint(model, x, use_reentrant=False)):
        torch.manual_seed(0)
        grads.append(gradient(loss_of(call, x, vectors_for(n, x)), model))
    assert relative_error(grads[1], grads[0]) < RTOL[x.dtype]


def test_reentrant_checkpoint_is_refused_by_torch():
    model, x = build("cnn")
    with pytest.raises(RuntimeError, match="use_reentrant"):
        loss_of(lambda x: checkpoint(model, x, use_reentrant=True), x, vectors_for(2, x))


@pytest.mark.parametrize("inside", [True, False])
@pytest.mark.parametrize("name", ["mlp", "cnn"])
def test_autocast(name, inside):
    """The penalty of the bfloat16 model, whether it is called inside the autocast region or not."""
    model, x = build(name, dtype=torch.float32)
    v = vectors_for(3, x)
    want = gradient(loss_of(model, x, v), model)
    leaf = x.clone().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        logits = model(leaf)
        if inside:
            penalty = frobenius_penalty(logits, leaf, vectors=v.bfloat16())
    assert logits.dtype == torch.bfloat16
    if not inside:
        penalty = frobenius_penalty(logits, leaf, vectors=v.bfloat16())
    assert penalty.dtype == torch.float32
    got = gradient(F.cross_entropy(logits.float(), TARGET) + penalty, model)
    assert relative_error(got, want) < RTOL[torch.bfloat16]


def test_draw_is_the_same_under_autocast():
    """Gram-Schmidt keeps the precision of the draw where autocast would round its products."""
    normal = draw(20, 8, 8, dtype=torch.float32)
    want = cotangents.orthonormal(normal, torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        got = cotangents.orthonormal(normal, torch.float32)
    torch.testing.assert_close(got, want)


class Custom(nn.Module):
    def __init__(self, model: nn.Module, cube) -> None:
        super().__init__()
        self.model, self.cube = model, cube

    def forward(self, x: Tensor) -> Tensor:
        return self.model[2:](self.cube(self.model[:2](x)))


@pytest.mark.parametrize("n", [1, 3])
@pytest.mark.parametrize("function", [Cube, CubeNested])
def test_custom_functions_keep_their_second_derivative(function, n):
    model, x = build("mlp")
    v = vectors_for(n, x)
    want = gradient(loss_of(Custom(model, lambda h: h**3), x, v), model)
    got = gradient(loss_of(Custom(model, function.apply), x, v), model)
    assert relative_error(got, want) < RTOL[x.dtype]


@pytest.mark.parametrize("n", [1, 3])
def test_function_without_a_second_derivative_is_an_error(n):
    model, x = build("mlp")
    with pytest.raises(RuntimeError, match="once_differentiable"):
        loss_of(Custom(model, CubeOnce.apply), x, vectors_for(n, x)).backward()


@pytest.fixture
def dynamo():
    """Let dynamo trace torch.autograd.grad, from a clean state."""
    torch._dynamo.reset()
    with torch._dynamo.config.patch(trace_autograd_ops=True):
        yield torch._dynamo.config
    torch._dynamo.reset()


@whole_steps_compile
@pytest.mark.parametrize("n", [1, 2])
@pytest.mark.parametrize(
    "name", ["mlp", "cnn", "conv_batch_norm", "layer_norm_gelu", "group_norm_silu"]
)
def test_compiled_step(dynamo, name, n):
    """The whole step in one graph, parameter gradients and all."""
    model, x = build(name, dtype=torch.float32)
    vectors = vectors_for(n, x)

    def step(x: Tensor, vectors: Tensor) -> Tensor:
        return gradient(loss_of(model, x, vectors), model)

    got = torch.compile(step, backend="aot_eager", fullgraph=True)(x, vectors)
    assert relative_error(got, step(x, vectors)) < RTOL[x.dtype]


@pytest.mark.parametrize("n", [1, 2])
def test_compiled_loss(dynamo, n):
    """The loss in one graph, its backward pass outside."""
    model, x = build("mlp")
    x.requires_grad_()
    vectors = vectors_for(n, x)

    def loss(x: Tensor) -> Tensor:
        logits = model(x)
        return logits.square().mean() + frobenius_penalty(logits, x, vectors=vectors)

    want = gradient(loss(x), model)
    torch.compile(loss, backend="aot_eager", fullgraph=True)(x).backward()
    assert relative_error(torch.cat([p.grad.flatten() for p in model.parameters()]), want) < 1e-12


@whole_steps_compile
@pytest.mark.parametrize("n", [1, 2, "exact"])
def test_compiled_step_with_a_draw(dynamo, n):
    model, x = build("mlp", dtype=torch.float32)

    def step(x: Tensor) -> Tensor:
        x = x.detach().requires_grad_()
        return gradient(frobenius_penalty(model(x), x, n), model)

    compiled = torch.compile(step, backend="aot_eager", fullgraph=True)
    torch.manual_seed(0)
    first, second = compiled(x), compiled(x)
    torch.manual_seed(0)
    want = step(x)
    assert relative_error(first, want) < RTOL[x.dtype]
    assert torch.equal(first, second) == (n == "exact")  # every call draws afresh


@pytest.mark.parametrize("n", [1, 3])
@pytest.mark.parametrize("part", [slice(None), slice(0, 2), slice(2, 4)])
def test_compiled_model_in_an_eager_step_is_an_error(dynamo, part, n):
    """A compiled model, or a compiled part of one, has no second derivative."""
    model, x = build("mlp")
    compiled = torch.compile(model[part], backend="aot_eager")
    before, after = (
        model[: part.start or 0],
        model[len(model) if part.stop is None else part.stop :],
    )
    with pytest.raises(RuntimeError, match=COMPILED):
        gradient(loss_of(lambda x: after(compiled(before(x))), x, vectors_for(n, x)), model)


@pytest.mark.parametrize("n", [1, 3])
def test_compiled_step_with_dynamo_as_shipped(dynamo, n):
    """Without trace_autograd_ops the graph breaks at the penalty, after the compiled model.

    Which is an error; PyTorch 2.15 compiles the penalty as well.
    """
    model, x = build("mlp")

    def step(x: Tensor, vectors: Tensor) -> Tensor:
        return loss_of(model, x, vectors)

    vectors = vectors_for(n, x)
    with dynamo.patch(trace_autograd_ops=False):
        if torch.__version__ < (2, 15):
            with pytest.raises(RuntimeError, match=DOUBLE_BACKWARD):
                gradient(torch.compile(step, backend="aot_eager")(x, vectors), model)
        else:
            got = gradient(torch.compile(step, backend="aot_eager")(x, vectors), model)
            assert relative_error(got, gradient(step(x, vectors), model)) < RTOL[x.dtype]


def _train_half(rank: int, n: int) -> Tensor:
    """Take two backward passes over this process's half batch; return the last gradient."""
    model, x = build("cnn", samples=8)
    y, vectors = torch.arange(8) % 5, draw(2, n, 8, 5)
    half = slice(4 * rank, 4 * rank + 4)
    parallel = DistributedDataParallel(model)
    for v in vectors:
        leaf = x[half].clone().requires_grad_()
        logits = parallel(leaf)
        model.zero_grad()
        penalty = frobenius_penalty(logits, leaf, vectors=v[:, half])
        (F.cross_entropy(logits, y[half]) + penalty).backward()
    return torch.cat([p.grad.flatten() for p in model.parameters()])


def _ddp_worker(rank: int, folder: str, n: int) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    torch.save(_train_half(rank, n), f"{folder}/{rank}.pt")
    dist.barrier()  # both are done, and the wrapper is freed: after its group, that can hang
    dist.destroy_process_group()


@pytest.mark.slow
@pytest.mark.skipif(not dist.is_gloo_available(), reason="this torch was built without gloo")
def test_two_processes_average_to_the_whole_batch(tmp_path):
    n = 2
    side_by_side(_ddp_worker, str(tmp_path), n, processes=2)
    model, x = build("cnn", samples=8)
    leaf, v = x.clone().requires_grad_(), draw(2, n, 8, 5)[1]
    logits = model(leaf)
    loss = F.cross_entropy(logits, torch.arange(8) % 5) + frobenius_penalty(logits, leaf, vectors=v)
    want = gradient(loss, copy.copy(model))
    for rank in range(2):
        got = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        assert relative_error(got, want) < RTOL[x.dtype]
