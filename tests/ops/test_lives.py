"""Which life of an op runs, and that it steps aside where the compiled one would be wrong."""

import importlib
import os
import subprocess
import sys

import pytest
import torch
from torch.autograd import forward_ad

from jacfast.memory import ran_out
from jacfast.ops import attention_second, lives, row_norm
from jacfast.ops.attention_second import reference as attention_second_reference
from jacfast.ops.row_norm import KINDS, reference
from tests.forked import completed


def _chosen() -> None:
    print(importlib.reload(lives).life(torch.device("cpu")))


def test_the_environment_forces_the_references():
    assert completed(_chosen, JACFAST_IMPL="reference").stdout.strip() == "reference"
    want = "cpu" if "cpu" in lives.BUILT else "reference"
    assert completed(_chosen, JACFAST_IMPL="auto").stdout.strip() == want


def test_nobody_loads_the_compiler():
    """It takes a second, and every step asks then whether something is compiled."""
    code = """
import sys, torch, jacfast
assert "torch._dynamo" not in sys.modules, "by PyTorch itself"
jacfast.forward_with_penalty(torch.nn.Linear(3, 3), torch.ones(2, 3))[1].backward()
jacfast.deepfool(torch.nn.Linear(3, 3), torch.ones(2, 3), clip=None)
print("torch._dynamo" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_an_unknown_choice_is_refused():
    failed = completed(_chosen, JACFAST_IMPL="fast")
    assert "JACFAST_IMPL must be one of auto, reference; got 'fast'" in failed.stderr


def test_the_reason_is_said(monkeypatch):
    cpu, other = torch.device("cpu"), torch.device("meta")
    if lives.BUILT:
        assert lives.reason(cpu) == "compiled into jacfast._ops for cpu"
        assert lives.reason(other) == "the extension was built without meta kernels"
    monkeypatch.setattr(lives, "BUILT", frozenset())
    monkeypatch.setattr(lives, "WHY_NOT", "no compiler")
    assert (lives.life(cpu), lives.reason(cpu)) == ("reference", "no compiler")


# What nvcc's manual says of binary and PTX compatibility.
@pytest.mark.parametrize(
    ("architectures", "runs", "does_not"),
    [
        ("8.0;9.0+PTX", [(8, 0), (8, 6), (8, 9), (9, 0), (10, 0), (12, 1)], [(7, 0), (7, 5)]),
        ("7.5 8.6", [(7, 5), (8, 6), (8, 9)], [(7, 0), (8, 0), (9, 0)]),
        ("8.6+PTX", [(8, 6), (8, 9), (9, 0)], [(8, 0), (7, 5)]),
        ("9.0a", [(9, 0)], [(9, 1), (8, 0), (10, 0)]),
        ("10.0", [(10, 0), (10, 3)], [(1, 0), (12, 0)]),
        ("Hopper", [(9, 0)], []),
    ],
)
def test_which_gpus_a_build_is_for(architectures, runs, does_not):
    assert all(lives.covers(architectures, gpu) for gpu in runs)
    assert not any(lives.covers(architectures, gpu) for gpu in does_not)


@pytest.fixture
def gpus(monkeypatch):
    """Two GPUs: the first too old for the build."""
    monkeypatch.setattr(lives, "IMPL", "auto")
    monkeypatch.setattr(lives, "BUILT", frozenset({"cpu", "cuda"}))
    monkeypatch.setattr(lives, "BUILD", {"architectures": "8.0;9.0+PTX"})
    monkeypatch.setattr(lives, "_HAS_KERNELS", {})
    capabilities = {None: (7, 5), 0: (7, 5), 1: (9, 0)}

    def capability(device):
        open(os.devnull).close()  # nothing that a compiler could look through
        return capabilities[getattr(device, "index", device)]

    monkeypatch.setattr(torch.cuda, "get_device_capability", capability)


def test_a_gpu_that_the_build_is_not_for_runs_the_references(gpus):
    old, new = torch.device("cuda", 0), torch.device("cuda", 1)
    assert (lives.life(old), lives.life(new)) == ("reference", "cuda")
    assert lives.life(torch.device("cuda")) == "reference"
    want = "the kernels were built for 8.0;9.0+PTX; this GPU has compute capability 7.5"
    assert lives.reason(old) == want
    assert lives.reason(new) == "compiled into jacfast._ops for cuda"


def test_the_life_on_a_gpu_is_a_constant_of_a_compiled_function(gpus):
    @torch.compile(backend="eager", fullgraph=True)
    def which(x):
        return x + (1 if lives.life(torch.device("cuda", 1)) == "cuda" else 2)

    assert which(torch.zeros(())).item() == 1


@pytest.mark.skipif(not lives.BUILT, reason="the extension is not built")
def test_an_op_that_cannot_allocate_says_so_as_pytorch_does():
    rows = torch.ones(1, 1).expand(2**50, 1)  # their norms would take four petabytes
    with pytest.raises(RuntimeError, match="allocate memory") as caught:
        row_norm(rows, "sumsq")
    assert ran_out(caught.value)


@pytest.mark.parametrize("words", ["CUDA out of memory. jacfast could not", "something else"])
def test_an_op_without_memory_on_a_gpu_raises_pytorchs_own_error(monkeypatch, words):
    def fails(*_):
        raise RuntimeError(words)

    monkeypatch.setattr(torch.ops.jacfast, "row_norm", fails)
    with pytest.raises(RuntimeError, match=words) as caught:
        lives.call("row_norm", torch.ones(2, 3), "sumsq")
    assert isinstance(caught.value, torch.OutOfMemoryError) == ("memory" in words)


@pytest.fixture
def g():
    return torch.randn(3, 7, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("kind", KINDS)
def test_under_torch_func(g, kind):
    def total(g):
        return row_norm(g, kind).sum()

    leaf = g.clone().requires_grad_()
    (want,) = torch.autograd.grad(reference(leaf, kind).sum(), leaf)
    torch.testing.assert_close(torch.func.grad(total)(g), want)
    value, tangent = torch.func.jvp(total, (g,), (torch.ones_like(g),))
    torch.testing.assert_close(value, reference(g, kind).sum())
    torch.testing.assert_close(tangent, want.sum())
    batched = torch.func.vmap(lambda part: row_norm(part, kind))(torch.stack([g, 2 * g]))
    torch.testing.assert_close(batched[1], reference(2 * g, kind))


@pytest.mark.parametrize("kind", KINDS)
def test_under_forward_mode(g, kind):
    """A torch.library op would return a zero tangent here, silently."""
    leaf = g.clone().requires_grad_()
    (want,) = torch.autograd.grad(reference(leaf, kind).sum(), leaf)
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(g, torch.ones_like(g))
        tangent = forward_ad.unpack_dual(row_norm(dual, kind).sum()).tangent
    torch.testing.assert_close(tangent, want.sum())


def test_a_library_that_was_built_before_an_op_was_added(monkeypatch):
    """It has the others; this one runs as its reference."""
    assert lives.has("row_norm") == bool(lives.BUILT)
    assert not lives.has("no_such_op")
    monkeypatch.setattr(lives, "has", lambda name: False)
    monkeypatch.setattr(lives, "call", None)
    tile = torch.randn(4, 2, 3)
    want = attention_second_reference(tile)
    attention_second(tile)
    assert torch.equal(tile, want)
