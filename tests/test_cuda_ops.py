"""Every native op as a GPU has it: right, never waiting for the device, captured in a CUDA graph.

That the list has every op, and that nothing in it is wrong but for a GPU, is seen on the CPU.
"""

import re
from pathlib import Path

import pytest
import torch

from benchmarks.rivals import recorded
from jacfast import ops
from jacfast.ops import lives
from jacfast.ops.row_norm import KINDS
from tests.attacks.launches import Launches
from tests.testing import missing, no_waiting

ROOT = Path(__file__).parents[1]
SIZES = [65, 9000]  # a warp for a row; rows in parts
on_gpu = pytest.mark.skipif(bool(missing("cuda")), reason=missing("cuda") or "on a GPU")
compiled = pytest.mark.skipif(bool(missing("cpu")), reason=missing("cpu") or "compiled")


def problem(size, device, dtype=torch.float32, seed=0):
    """Return logits [3, 4], rows [3, 4, size] and classes [3]."""
    generator = torch.Generator().manual_seed(seed)
    logits, rows = (
        torch.randn(shape, dtype=dtype, generator=generator).to(device)
        for shape in ((3, 4), (3, 4, size))
    )
    return logits, rows, logits.argmax(dim=1)


def stream_of_candidates(logits, rows, origin):
    nearest = ops.Nearest.empty(rows.shape[0], rows.shape[2], rows)
    sample = torch.arange(len(rows), device=rows.device)
    for k in range(rows.shape[1]):
        w, f = rows[:, k] - rows[sample, origin], logits[:, k] - logits[sample, origin]
        ops.deepfool_candidate(w, f, torch.full_like(origin, k), nearest)
    return tuple(nearest)


WINDOW, STRIDE = (2, 3), (1, 2)  # they overlap


def pooled(logits, rows, origin):
    """Pool images of five rows, and pull and push their entries along the choices."""
    x = rows.unflatten(2, (5, -1))
    y, choice = ops.max_pool(x, WINDOW, STRIDE)
    pulled = ops.max_pool_scatter(y, choice, tuple(x.shape[2:]), WINDOW, STRIDE)
    return y, choice, pulled, ops.max_pool_gather(pulled, choice, WINDOW, STRIDE)


def attended(logits, rows, origin):
    tile = rows.transpose(0, 1).clone(memory_format=torch.contiguous_format)
    ops.attention_second(tile)
    return (tile,)


def normalised(logits, rows, origin):
    (x, g, u, _), weight = rows.unbind(1), rows[0, 3]
    first = ops.norm_first(x, g, weight, 1e-5, parameters=True)
    return *first, *ops.norm_second(x, g, u, weight, 1e-5, parameters=True)


def projected(logits, rows, origin):
    low, high = -rows[:, 0].abs(), rows[:, 1].abs()
    return ops.halfspace_projection(low, high, rows[:, 2:], logits[:, 2:].double())


OPS = {
    **{kind: (lambda z, rows, _, kind=kind: (ops.row_norm(rows[:, 0], kind),)) for kind in KINDS},
    "deepfool_step": ops.deepfool_step,
    "deepfool_candidate": stream_of_candidates,
    "orthonormal_cotangents": lambda z, rows, _: (ops.orthonormal_cotangents(rows[:, :2, :7]),),
    "max_pool": pooled,
    "attention_second": attended,
    "activation_first": lambda z, rows, _: (ops.activation_first(*rows.unbind(1)[:2], "gelu"),),
    "activation_second": lambda z, rows, _: ops.activation_second(*rows.unbind(1)[:3], "gelu"),
    "norm": normalised,
    "halfspace_projection": projected,
}


@compiled
def test_every_op_of_the_library_is_there(monkeypatch):
    called, call = set(), lives.call
    monkeypatch.setattr(lives, "call", lambda name, *given: called.add(name) or call(name, *given))
    for op in OPS.values():
        op(*problem(65, "cpu"))
    sources = "".join(file.read_text() for file in ROOT.glob("csrc/ops/*.cpp"))
    assert called == set(re.findall(r"^JACFAST_IMPL\((\w+)\)", sources, re.MULTILINE))
    assert called == set(lives.NAMES)


@pytest.mark.parametrize("name", OPS)
@pytest.mark.parametrize("size", SIZES)
def test_results_follow_the_inputs_alone(name, size):
    """What a replay needs: other inputs, other results; inputs stay, and nothing is looked at."""
    inputs = problem(size, "cpu")
    with Launches() as seen:
        results = OPS[name](*inputs)
    if name != "deepfool_step":  # which looks at the classes, where it does not wait for that
        assert not seen.waited
    for kept, given in zip(problem(size, "cpu"), inputs, strict=True):
        assert torch.equal(kept, given)
    again, others = OPS[name](*inputs), OPS[name](*problem(size, "cpu", seed=1))
    for result, same in zip(results, again, strict=True):
        assert result.isfinite().all()
        assert torch.equal(result, same)
    assert not torch.equal(results[0], others[0])


@on_gpu
@pytest.mark.parametrize("name", OPS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("size", SIZES)
def test_an_op_agrees_with_the_cpu(name, dtype, size):
    """The few launches of each op that compute-sanitizer watches (scripts/gpu_check.sh)."""
    found, wanted = (OPS[name](*problem(size, device, dtype)) for device in ("cuda", "cpu"))
    rounding = 1e-4 if dtype == torch.float32 else 1e-10
    for got, want in zip(found, wanted, strict=True):
        most = rounding * max(1.0, float(want.abs().max()))
        torch.testing.assert_close(got.cpu(), want, rtol=0, atol=most)


@on_gpu
@pytest.mark.parametrize("name", OPS)
@pytest.mark.parametrize("size", SIZES)
def test_a_captured_op_follows_its_inputs(name, size):
    inputs, others = problem(size, "cuda"), problem(size, "cuda", seed=1)
    graph, results = recorded(lambda: OPS[name](*inputs))
    for static, other in zip(inputs, others, strict=True):
        static.copy_(other)
    graph.replay()
    for got, want in zip(results, OPS[name](*others), strict=True):
        assert torch.equal(got, want)


@on_gpu
@pytest.mark.parametrize("name", OPS)
def test_an_op_never_waits_for_the_device(name):
    inputs = problem(9000, "cuda")
    with no_waiting():
        OPS[name](*inputs)


@on_gpu
@pytest.mark.parametrize("name", OPS)
def test_an_op_runs_on_the_current_stream(name):
    """Work queued behind a sleep on another stream must not be overtaken."""
    inputs, others = problem(9000, "cuda"), problem(9000, "cuda", seed=1)
    want = OPS[name](*others)
    stream = torch.cuda.Stream()
    torch.cuda.synchronize()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(20_000_000)
        for static, other in zip(inputs, others, strict=True):
            static.copy_(other)
        results = OPS[name](*inputs)
    stream.synchronize()
    for got, expected in zip(results, want, strict=True):
        assert torch.equal(got, expected)
