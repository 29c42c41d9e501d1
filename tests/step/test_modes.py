"""Both ways to a step beside checkpointing, autocast, loss scaling and half precision.

Each gives the gradient of the plain model, or a clear error; never a wrong gradient.
"""

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from jacfast import CrossLipschitz, EntrywiseL1, Frobenius, InputGradient, Spectral
from tests.nets import relative_error
from tests.step.networks import SIX, build
from tests.step.steps import ROUNDING, assert_same, fast, gradient, loss_of, plain, step

WAYS = [fast, plain]
# A part of each network to be computed again in the backward pass.
PARTS = {
    "mlp": ["0", "2"],
    "tutorial": ["3", "9"],
    "cifar": ["0", "4"],
    "resnet": ["3", "4"],
    "convnext": ["0", "2"],
    "vit": ["patches", "blocks.1"],
}


def checkpointed(model: nn.Module, names: list[str]) -> None:
    for name in names:
        module = model.get_submodule(name)
        module.forward = lambda x, f=module.forward: checkpoint(f, x, use_reentrant=False)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("part", [0, 1, "all"])
@pytest.mark.parametrize("penalty", [Frobenius(2), InputGradient(), Spectral()])
@pytest.mark.parametrize("network", SIX)
def test_checkpointed_parts(network, penalty, part, way):
    """Dropout among them: it draws the same mask again."""
    model, x, y = build(network)
    want = step(plain, model, x, y, penalty)
    if part == "all":
        checkpointed(model, [""])
    else:
        checkpointed(model, PARTS[network][part : part + 1])
    assert_same(step(way, model, x, y, penalty), want)


@pytest.mark.parametrize("inside", [True, False])
@pytest.mark.parametrize("penalty", [Frobenius("exact"), InputGradient(), CrossLipschitz("exact")])
@pytest.mark.parametrize("network", SIX)
def test_autocast_is_as_close_as_that_of_plain_autograd(network, penalty, inside):
    """To the gradient in float32, over three batches; backward inside the region and outside."""
    errors = dict.fromkeys(WAYS, 0.0)
    for seed in range(3):
        model, x, y = build(network, dtype=torch.float32, seed=seed)
        _, wanted, want = step(plain, model.eval(), x, y, penalty)
        for way in WAYS:
            with torch.autocast("cpu", torch.bfloat16):
                logits, value = way(model, x, y, penalty)
                loss = loss_of(logits, value, y)
                got = gradient(loss, model) if inside else None
            assert logits.dtype == torch.bfloat16
            assert value.dtype == torch.float32
            got = gradient(loss, model) if got is None else got
            errors[way] += relative_error(got, want) + relative_error(value, wanted)
    assert errors[fast] < 2 * errors[plain]
    assert errors[fast] < 0.5


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("penalty", [Frobenius(2), Frobenius(2, root=True), InputGradient()])
@pytest.mark.parametrize("network", SIX)
def test_a_scaled_loss(network, penalty, way):
    model, x, y = build(network)
    want = step(plain, model, x, y, penalty)[2]
    torch.manual_seed(0)
    (1024 * loss_of(*way(model, x, y, penalty), y)).backward()
    got = torch.cat([p.grad.flatten() for p in model.parameters()]) / 1024
    assert relative_error(got, want) < ROUNDING


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("network", ["mlp", "tutorial", "convnext"])
def test_float16_autocast_and_a_gradient_scaler(network, way):
    """Steps that overflow are left out; the first that does not is that of float32."""
    model, x, y = build(network, dtype=torch.float32)
    before = {name: p.detach().clone() for name, p in model.eval().named_parameters()}
    want = step(plain, model, x, y, Frobenius("exact"))[2]
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**40)
    moved, scales = torch.zeros(1), []
    while not moved.any():
        scales.append(scaler.get_scale())
        assert scales[-1] > 1
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.float16):
            loss = loss_of(*way(model, x, y, Frobenius("exact")), y)
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        moved = torch.cat([(before[name] - p).flatten() for name, p in model.named_parameters()])
    assert len(scales) > 1
    assert relative_error(moved, want) < 0.02


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("penalty", [Frobenius("exact"), EntrywiseL1("exact")])
@pytest.mark.parametrize("network", ["mlp", "tutorial", "vit"])
def test_a_model_in_half_precision(network, penalty, dtype):
    model, x, y = build(network, samples=8)
    model.eval()
    _, wanted, want = step(plain, model, x, y, penalty)
    errors = []
    for way in WAYS:
        _, value, got = step(way, model.to(dtype), x.to(dtype), y, penalty)
        assert value.dtype == torch.float32
        errors.append(relative_error(got, want) + relative_error(value, wanted))
    assert errors[0] < 2 * errors[1]


def test_half_precision_does_not_overflow():
    model = nn.Sequential(nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 5)).half()
    x = torch.randn(32, 64).half()
    with torch.no_grad():
        model[0].weight *= 300
    (_, got), (_, want) = (way(model, x, None, Frobenius("exact")) for way in WAYS)
    assert relative_error(got, want) < 1e-2


@pytest.mark.parametrize("network", SIX)
def test_saved_tensors_elsewhere(network):
    model, x, y = build(network)
    want = step(plain, model, x, y, Frobenius(1))
    with torch.autograd.graph.save_on_cpu(), torch.autograd.set_detect_anomaly(True):
        got = step(fast, model, x, y, Frobenius(1))
    assert_same(got, want)
