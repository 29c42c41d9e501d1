"""Loops by hand in float64, as one of two processes: DistributedDataParallel, and FSDP."""

import contextlib
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, distributed, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module
from torch.nn.parallel import DistributedDataParallel

import jacfast
from jacfast.lean import mode
from jacfast.training import fit
from tests.integrations import hand
from tests.nets import NETS

EXACT, DRAWN = hand.EXACT, jacfast.Frobenius(2)
LAM, CLIP, ACCUMULATED, BATCH = 0.3, 0.5, 2, 8


def make(name: str) -> nn.Module:
    torch.manual_seed(0)
    return NETS[name][0]().double()


def source() -> torch.Generator:
    """Return what the projections are drawn from."""
    return torch.Generator().manual_seed(5)


def data(name: str) -> list:
    return [(x.double(), y) for x, y in hand.batches([BATCH] * 6, NETS[name][1])]


def mine(part: Tensor) -> Tensor:
    return part.chunk(2)[distributed.get_rank()]


def train(
    name: str,
    whole: nn.Module,
    call: Callable[[Tensor], tuple[Tensor, Tensor]],
    scaler: torch.amp.GradScaler | None = None,
) -> dict[str, Tensor]:
    """Train what is `whole` by SGD, clipped, each step of two batches; return its weights."""
    optimizer = torch.optim.SGD(whole.parameters(), 0.1)
    for step in hand.groups(data(name), ACCUMULATED):
        for x, y in step:
            last = x is step[-1][0]
            waits = hasattr(whole, "no_sync") and not last
            with whole.no_sync() if waits else contextlib.nullcontext():
                logits, penalty = call(mine(x))
                loss = (F.cross_entropy(logits, mine(y)) + LAM * penalty) / ACCUMULATED
                (loss if scaler is None else scaler.scale(loss)).backward()
        if scaler is not None:
            scaler.unscale_(optimizer)
        nn.utils.clip_grad_norm_(whole.parameters(), CLIP)
        optimizer.step() if scaler is None else scaler.step(optimizer)
        if scaler is not None:
            scaler.update()
        optimizer.zero_grad()
    found = {}
    for key, value in whole.state_dict().items():
        if hasattr(value, "full_tensor"):
            assert value.placements[0].is_shard(), key  # as it was
            value = value.full_tensor()
        found[key.removeprefix("module.").removeprefix("model.")] = value
    return found


def in_parallel(name: str) -> dict[str, Tensor]:
    pair = jacfast.WithPenalty(make(name), DRAWN, generator=source())
    parallel = DistributedDataParallel(pair)
    return train(name, parallel, parallel, torch.amp.GradScaler("cpu", init_scale=2.0**10))


def pair_sharded(name: str, **options) -> dict[str, Tensor]:
    pair = fully_shard(jacfast.WithPenalty(make(name), EXACT), **options)
    return train(name, pair, pair)


def pair_lean(name: str) -> dict[str, Tensor]:
    least, mode.LEAST = mode.LEAST, 0
    try:
        return pair_sharded(name)
    finally:
        mode.LEAST = least


def pair_freed(name: str) -> dict[str, Tensor]:
    return pair_sharded(name, reshard_after_forward=True)


def one_line(name: str, keeps: bool = True) -> dict[str, Tensor]:
    model = make(name)
    for layer in model.children():
        if isinstance(layer, nn.Linear):
            fully_shard(layer)
    fully_shard(model)

    def call(x: Tensor) -> tuple[Tensor, Tensor]:
        model.set_reshard_after_backward(not keeps)
        x = x.clone().requires_grad_()
        logits = model(x)
        penalty = EXACT(logits, x)
        model.set_reshard_after_backward(True)
        return logits, penalty

    return train(name, model, call)


JOBS = {
    "DDP": (in_parallel, "mlp"),
    "FSDP, the pair": (pair_sharded, "attention"),
    "FSDP, the pair, lean layers": (pair_lean, "cnn"),
    "FSDP, the pair, freed between": (pair_freed, "smooth_mlp"),
    "FSDP, one line": (one_line, "layer_norm_gelu"),
}


def sharded(model: nn.Module) -> nn.Module:
    return fully_shard(model)


def sharded_inside(model: nn.Module) -> nn.Module:
    fully_shard(model[0])
    return model


def pair_sharded_inside(model: nn.Module) -> nn.Module:
    return fully_shard(jacfast.WithPenalty(sharded_inside(model)))


def tensor_parallel() -> nn.Module:
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 5)).double()
    layers = {"0": ColwiseParallel(), "2": RowwiseParallel()}
    return parallelize_module(model, init_device_mesh("cpu", (2,)), layers)


def penalised(model: nn.Module) -> None:
    with jacfast.penalised(model):
        model(X)


def of_tensor_parallel(_: nn.Module) -> None:
    x = X.clone().requires_grad_()
    EXACT(tensor_parallel()(x), x)


def measured(model: nn.Module) -> None:
    """Take no way back: nothing that is freed is missed."""
    x = X.clone().requires_grad_()
    EXACT(sharded(model)(x), x).item()


def fitted(model: nn.Module) -> None:
    fit(sharded(model), X, Y, epochs=1, batch_size=4, lr=0.1, loss=jacfast.training.Defence())


X, Y = torch.rand(8, 6, dtype=torch.float64), torch.arange(8) % 5
REFUSED = {
    "forward_with_penalty": lambda model: jacfast.forward_with_penalty(sharded(model), X),
    "a layer": lambda model: jacfast.forward_with_penalty(sharded_inside(model), X),
    "the pair, a layer": lambda model: pair_sharded_inside(model)(X),
    "penalised": lambda model: penalised(sharded(model)),
    "one line": lambda _: one_line("mlp", keeps=False),
    "one line, measured": measured,
    "fit": fitted,
    "tensor parallel": lambda _: jacfast.forward_with_penalty(tensor_parallel(), X),
    "tensor parallel, one line": of_tensor_parallel,
}


def refused(call: Callable[[nn.Module], object]) -> str:
    try:
        call(make("mlp"))
    except (TypeError, RuntimeError) as error:
        return f"{type(error).__name__}: {error}"
    return "nothing"


def results() -> tuple[dict[str, dict[str, Tensor]], dict[str, str]]:
    """Return the weights of the trainings, and what is said to what is refused."""
    distributed.init_process_group("gloo")
    weights = {name: job(net) for name, (job, net) in JOBS.items()}
    words = {name: refused(call) for name, call in REFUSED.items()}
    distributed.barrier()
    distributed.destroy_process_group()
    return weights, words
