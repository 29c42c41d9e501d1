"""DistributedDataParallel around WithPenalty, over two processes."""

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from jacfast import (
    WGANGP,
    Frobenius,
    WithPenalty,
    deepfool,
    forward_with_penalty,
    jacobian,
    penalised,
)
from jacfast.portion import Share, within
from tests.forked import side_by_side
from tests.nets import relative_error
from tests.step.networks import build
from tests.step.steps import ROUNDING, gradient, loss_of, plain

NETWORKS = ("mlp", "tutorial", "resnet")
PENALTIES = {
    "exact": Frobenius("exact"),
    "drawn": Frobenius(1, subsample=0.5),
    "root": Frobenius("exact", root=True),
}


def problem(network: str) -> tuple[nn.Module, Tensor, Tensor]:
    model, x, y = build(network, samples=8)
    return model.eval(), x, y


def half(rank: int) -> slice:
    return slice(4 * rank, 4 * rank + 4)


def twice(model: nn.Module, network: str, name: str, rank: int) -> Tensor:
    """Take two backward passes over this process's half batch; return the last gradient."""
    _, x, y = problem(network)
    parallel = DistributedDataParallel(WithPenalty(model, PENALTIES[name]))
    for seed in (0, 1):
        torch.manual_seed(2 * seed + rank)
        parallel.zero_grad()
        loss_of(*parallel(x[half(rank)], y[half(rank)]), y[half(rank)]).backward()
    return torch.cat([p.grad.flatten() for p in model.parameters()])


def through_context(model: nn.Module, network: str, rank: int) -> Tensor:
    """Penalise the model inside a wrapper that is called as ever."""
    _, x, y = problem(network)
    parallel = DistributedDataParallel(model)
    with penalised(model, penalty=PENALTIES["exact"]) as held:
        logits = parallel(x[half(rank)])
    loss_of(logits, held.penalty, y[half(rank)]).backward()
    return torch.cat([p.grad.flatten() for p in model.parameters()])


def in_one_line(model: nn.Module, network: str, rank: int) -> Tensor:
    """Call the wrapper alone: the penalty's backward pass comes before the first of the loss."""
    _, x, y = problem(network)
    parallel = DistributedDataParallel(model, static_graph=True)
    for _ in range(2):
        parallel.zero_grad()
        leaf = x[half(rank)].clone().requires_grad_()
        logits = parallel(leaf)
        loss_of(logits, PENALTIES["exact"](logits, leaf), y[half(rank)]).backward()
    return torch.cat([p.grad.flatten() for p in model.parameters()])


def attacked(model: nn.Module, network: str, rank: int) -> Tensor:
    """Let one process attack before each step: the other hears of none."""
    _, x, y = problem(network)
    pair = WithPenalty(model, PENALTIES["exact"])
    parallel = DistributedDataParallel(pair, static_graph=True)
    for steps in (1, 2):
        if rank == steps % 2:
            deepfool(parallel, x[:3], steps=steps)
        parallel.zero_grad()
        loss_of(*parallel(x[half(rank)], y[half(rank)]), y[half(rank)]).backward()
    return torch.cat([p.grad.flatten() for p in model.parameters()])


def worker(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    grads = {}
    for network in NETWORKS:
        for name in PENALTIES:
            grads[network, name] = twice(problem(network)[0], network, name, rank)
        grads[network, "attacked"] = attacked(problem(network)[0], network, rank)
        grads[network, "one line"] = in_one_line(problem(network)[0], network, rank)
        grads[network, "context"] = through_context(problem(network)[0], network, rank)
    model, x, _ = problem("mlp")
    pair = WithPenalty(model, WGANGP(nn.Parameter(torch.tensor(1.0).to(x))))
    parallel = DistributedDataParallel(pair, find_unused_parameters=True)
    parallel(x[half(rank)])[1].backward()
    grads["mlp", "learned"] = pair.learned.target.grad.clone()
    for none in ({"penalty": None}, {}):  # in the first nothing reaches what is learned
        sum(each.sum() for each in parallel(x[half(rank)], **none)).backward()
    before = torch.get_rng_state()
    assert torch.equal(jacobian(parallel, x), jacobian(model, x))
    assert torch.equal(torch.get_rng_state(), before)
    parallel = DistributedDataParallel(model)
    with pytest.raises(TypeError, match="must not be a DistributedDataParallel, which would not"):
        forward_with_penalty(parallel, x)
    torch.save(grads, f"{folder}/{rank}.pt")
    del parallel
    dist.barrier()  # both are done, and the wrappers are freed: after their group, that can hang
    dist.destroy_process_group()


@pytest.mark.slow
@pytest.mark.skipif(not dist.is_gloo_available(), reason="this torch was built without gloo")
def test_two_processes_average_to_the_whole_batch(tmp_path):
    side_by_side(worker, str(tmp_path), processes=2)
    got = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2)]
    assert got[0].keys() == got[1].keys()
    for (network, name), one in got[0].items():
        assert torch.equal(one, got[1][network, name])
        assert relative_error(one, wanted(network, name)) < ROUNDING


def wanted(network: str, name: str) -> Tensor:
    """Return the gradient of the whole batch, or the mean of the halves' with the same draws."""
    model, x, y = problem(network)
    if name == "learned":
        leaf, target = x.requires_grad_(), torch.tensor(1.0).to(x).requires_grad_()
        return torch.autograd.grad(WGANGP(target)(model(leaf), leaf), target)[0]
    if name in ("exact", "context", "attacked", "one line"):
        return gradient(loss_of(*plain(model, x, y, PENALTIES["exact"]), y), model)
    grads = []
    for rank in range(2):
        part, labels = x[half(rank)], y[half(rank)]
        torch.manual_seed(2 + rank)
        chosen = torch.randperm(4)[:2] if name == "drawn" else torch.arange(4)
        penalty = Frobenius(1) if name == "drawn" else PENALTIES[name]
        with within(Share(rank, 2)):
            _, value = plain(model, part[chosen], labels[chosen], penalty)
        grads.append(gradient(loss_of(model(part), value, labels), model))
    return (grads[0] + grads[1]) / 2
