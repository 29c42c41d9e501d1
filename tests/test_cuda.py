"""On a GPU: the library agrees with the CPU, and its steps can be captured."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import jacfast
from benchmarks.rivals import recorded
from jacfast.lean import mode, tables
from tests import nets
from tests.testing import missing

pytestmark = pytest.mark.skipif(bool(missing("cuda")), reason=missing("cuda") or "on a GPU")


@pytest.mark.parametrize("n", [1, 3, "exact"])
def test_a_captured_training_step_draws_anew_at_each_replay(n):
    torch.manual_seed(0)
    model = nets.smooth_mlp().cuda()
    x = torch.randn(8, 6, device="cuda", requires_grad=True)

    def step():
        penalty = jacfast.frobenius_penalty(model(x), x, n)
        return penalty.detach(), torch.autograd.grad(penalty, list(model.parameters())[:-1])

    graph, (penalty, grads) = recorded(step)
    draws = []
    mean = [torch.zeros_like(g) for g in grads]
    for _ in range(2000 if n != "exact" else 2):
        graph.replay()
        draws.append(penalty.clone())
        for total, g in zip(mean, grads, strict=True):
            total += g
    exact = jacfast.frobenius_penalty(model(x), x, "exact")
    want = torch.autograd.grad(exact, list(model.parameters())[:-1])
    draws = torch.stack(draws)
    assert (len(draws.unique()) > 1) == (n != "exact")
    torch.testing.assert_close(draws.mean(), exact.detach(), rtol=0.05, atol=0)
    for total, expected in zip(mean, want, strict=True):
        error = (total / len(draws) - expected).norm() / expected.norm()
        assert error < 0.1


@pytest.mark.usefixtures("exact_convolutions")
@pytest.mark.parametrize("network", [nets.mlp, nets.cnn])
def test_a_step_as_cuda_graphs_is_the_eager_one(network):
    """For other inputs and weights than those that were recorded, and with fresh draws."""
    torch.manual_seed(0)
    model, exact = network().cuda(), jacfast.Frobenius("exact")
    shape = (2, 8, 8) if network is nets.cnn else (6,)
    for _ in range(4):
        x, grads = torch.rand(6, *shape, device="cuda"), []
        for compiled in (None, "cudagraphs"):
            model.zero_grad()
            logits, value = jacfast.forward_with_penalty(model, x, penalty=exact, compiled=compiled)
            (logits.square().mean() + value).backward()
            grads.append([p.grad.clone() for p in model.parameters()])
        torch.testing.assert_close(*grads, rtol=1e-3, atol=1e-5)
        with torch.no_grad():
            for p in model.parameters():
                p.add_(0.01 * torch.randn_like(p))
    drawn = [
        jacfast.forward_with_penalty(model, x, compiled="cudagraphs")[1].item() for _ in range(6)
    ]
    assert len(set(drawn)) == len(drawn)


@pytest.mark.parametrize("network", [nets.mlp, nets.cnn])
def test_the_library_agrees_with_the_cpu(network):
    torch.manual_seed(0)
    model = network().double()
    x = torch.rand(6, *((2, 8, 8) if network is nets.cnn else (6,)), dtype=torch.float64)
    grads, attacks = {}, {}
    for device in ("cpu", "cuda"):
        there = copy.deepcopy(model).to(device)
        at = x.to(device).requires_grad_()
        loss = F.cross_entropy(there(at), torch.zeros(6, dtype=torch.long, device=device))
        loss = loss + 0.1 * jacfast.frobenius_penalty(there(at), at, "exact")
        grads[device] = torch.autograd.grad(loss, list(there.parameters()))
        attacks[device] = jacfast.deepfool(there, at.detach())
        assert attacks[device].norm.device.type == device
    for cpu, gpu in zip(grads["cpu"], grads["cuda"], strict=True):
        torch.testing.assert_close(gpu.cpu(), cpu, rtol=1e-9, atol=1e-12)
    fooled = attacks["cpu"].success
    assert fooled.any()
    assert torch.equal(attacks["cuda"].success.cpu(), fooled)
    norms = (attacks[device].norm.cpu()[fooled] for device in ("cuda", "cpu"))
    torch.testing.assert_close(*norms, rtol=1e-9, atol=0)


@pytest.fixture(params=["0", "1"], ids=["stock", "lean"])
def layers(request, monkeypatch):
    """PyTorch's own layers in the penalised step, or lean ones, however small."""
    monkeypatch.setattr(tables, "ON_GPU", request.param)
    monkeypatch.setattr(mode, "LEAST", 0)


@pytest.mark.parametrize("network", [nets.mlp, nets.cnn, nets.layer_norm_gelu])
@pytest.mark.parametrize("n", ["exact", 5])
@pytest.mark.usefixtures("layers")
def test_forward_with_penalty_agrees_with_the_cpu(network, n):
    torch.manual_seed(0)
    model = network().double()
    x = torch.rand(6, *((2, 8, 8) if network is nets.cnn else (6,)), dtype=torch.float64)
    grads = {}
    for device in ("cpu", "cuda"):
        there = copy.deepcopy(model).to(device)
        penalty = jacfast.Frobenius(n)  # n = K = 5 is exact, whatever the draw
        logits, value = jacfast.forward_with_penalty(there, x.to(device), penalty=penalty)
        grads[device] = torch.autograd.grad(logits.square().sum() + value, there.parameters())
    for cpu, gpu in zip(grads["cpu"], grads["cuda"], strict=True):
        torch.testing.assert_close(gpu.cpu(), cpu, rtol=1e-9, atol=1e-12)


@pytest.fixture(params=["contiguous", "channels_last", "benchmark", "tf32", "bfloat16"])
def setting(request):
    """What a training program may have set: the images' layout, precision, and the tolerance."""
    name, matmul = request.param, torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high" if name == "tf32" else "highest")
    flags = {"benchmark": name == "benchmark", "allow_tf32": name == "tf32"}
    with torch.backends.cudnn.flags(enabled=True, **flags):  # off, where it is left out
        yield name, {"tf32": 1e-2, "bfloat16": 0.1}.get(name, 1e-4)
    torch.set_float32_matmul_precision(matmul)


@pytest.mark.usefixtures("layers")
def test_a_step_under_the_settings_of_programs(setting):
    """Activations in channels_last beside contiguous weights; TF32, autocast, cuDNN's tuner."""
    assert torch.backends.cudnn.enabled
    torch.manual_seed(0)
    (name, tolerance), model = setting, nets.cnn()
    x, exact = torch.rand(6, 2, 8, 8), jacfast.Frobenius("exact")
    logits, value = jacfast.forward_with_penalty(model.double(), x.double(), penalty=exact)
    want = torch.autograd.grad(logits.square().sum() + value, model.parameters())
    model, x = model.float().cuda(), x.cuda()
    if name == "channels_last":
        x = x.to(memory_format=torch.channels_last)
    with torch.autocast("cuda", torch.bfloat16, enabled=name == "bfloat16"):
        logits, value = jacfast.forward_with_penalty(model, x, penalty=exact)
    got = torch.autograd.grad(logits.float().square().sum() + value, model.parameters())
    wide = torch.cat([g.double().flatten() for g in want])
    error = torch.cat([g.double().cpu().flatten() for g in got]) - wide
    assert error.norm() <= tolerance * wide.norm()


@pytest.mark.parametrize("chunk", [None, 2])
@pytest.mark.parametrize("options", [{}, {"subsample": 0.5}], ids=str)
def test_a_captured_forward_with_penalty_draws_anew(options, chunk):
    """In chunks behind dropout, too, before whose masks the order of the samples is drawn."""
    torch.manual_seed(0)
    model = nn.Sequential(*nets.smooth_mlp(), nn.Dropout(0.0)).cuda()
    x, penalty = torch.randn(8, 6, device="cuda"), jacfast.Frobenius(**options)

    def step():
        logits, value = jacfast.forward_with_penalty(model, x, penalty=penalty, chunk_size=chunk)
        return value.detach(), torch.autograd.grad(logits.sum() + value, list(model.parameters()))

    graph, (value, _) = recorded(step)
    draws = []
    for _ in range(2000):
        graph.replay()
        draws.append(value.clone())
    exact = jacfast.forward_with_penalty(model, x, penalty=jacfast.Frobenius("exact"))[1]
    draws = torch.stack(draws)
    assert len(draws.unique()) > 1000
    torch.testing.assert_close(draws.mean(), exact.detach(), rtol=0.05, atol=0)
