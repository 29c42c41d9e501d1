"""The emulator itself: right kernels give the right result in any order, planted faults show."""

import math
import os
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from tests.emulation import build, planted
from tests.emulation.planted import ORDERS
from tests.testing import OP_ERRORS, emulated, missing

pytestmark = pytest.mark.skipif(bool(missing("emulated")), reason=missing("emulated"))
# The sanitizers' library has plain statics, which nothing poisons, and stops the process itself.
sanitized = "sanitized" in os.environ.get("JACFAST_EMULATED", "")
only_plain = pytest.mark.skipif(sanitized, reason="static shared memory is not poisoned here")


def run(name: str, seed: int = 0) -> list[float]:
    return planted.run(build.load(), name, seed)


@pytest.mark.parametrize("seed", ORDERS)
def test_right_kernels(seed):
    assert run("block sum", seed)[: 3 * 128] == [127 * 64] * 3 * 128
    assert run("first warp only", seed)[:64] == [32] * 64
    assert run("indices", seed)[: 12 * 24 + 1] == [1] * 12 * 24 + [0]
    assert run("atomics", seed)[:5] == [128, 63, -63, 7, 9]
    assert run("dynamic memory", seed)[:64] == list(range(63, -1, -1))


@pytest.mark.parametrize("seed", ORDERS)
def test_warp_operations(seed):
    lanes = range(32)
    want = [
        [5] * 32,
        [lane // 8 * 8 + 1 for lane in lanes],
        [max(lane - 3, lane if lane < 3 else 0) for lane in lanes],
        [lane + 3 if lane % 16 < 13 else lane for lane in lanes],
        [(lane ^ 1) + 0.5 for lane in lanes],
        [7] * 32,
        [1] * 32,
        [0] * 32,
        [496] * 32,
        [-4] * 32,
        [31] * 32,
        [240 if lane % 2 == 0 else 256 for lane in lanes],
    ]
    out = run("warp operations", seed)
    for operation, expected in enumerate(want):
        assert out[operation * 32 : operation * 32 + 32] == expected, operation


def test_half_types_round_as_torch_does():
    third = torch.tensor(1 / 3)
    assert run("halves")[:2] == [float(third.half()), float(third.bfloat16())]


def test_a_launch_that_cuda_refuses():
    for name in ("no thread", "too many threads", "too deep a block", "too much memory"):
        with pytest.raises(RuntimeError, match="invalid configuration"):
            run(name)


@only_plain
@pytest.mark.parametrize("name", ["missing barrier", "race"])
def test_what_depends_on_the_order_shows(name):
    """NaN is what a shuffled run may read: compare as text."""
    assert len({str(run(name, seed)) for seed in ORDERS}) > 1


@only_plain
def test_a_missing_barrier_shows_in_order_too():
    assert run("missing barrier")[: 3 * 128] != run("block sum")[: 3 * 128]


@only_plain
@pytest.mark.parametrize("seed", range(3))
def test_unwritten_shared_memory_is_poisoned_in_each_block(seed):
    """In whatever order the blocks run, block 1 must not find what block 0 wrote."""
    found = run("unwritten", seed)[64:128]
    poison = bytearray([0xCD, 0x4D, 0xFF][seed : seed + 1] * 8)
    (want,) = torch.frombuffer(poison, dtype=torch.float64).tolist()
    assert all(v == want or (math.isnan(v) and math.isnan(want)) for v in found)


@pytest.mark.parametrize("seed", ORDERS)
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("barrier in both branches", "divergent barrier(.|\n)*planted.cu:"),
        ("barrier for half a warp", "never open(.|\n)*at __syncthreads(.|\n)*mask 0xffffffff"),
        ("return before block barrier", r"never open(.|\n)*threads 63 to 63: returned"),
        ("return before shuffle", "never open(.|\n)*mask 0xffffffff(.|\n)*returned"),
        ("mask of all for half", "never open"),
        ("mask without oneself", "leaves out the lane that calls"),
        ("lane outside the mask", "from a lane that its mask leaves out"),
        ("masks that differ", "never open"),
        ("lane that is not there", "never open"),
        ("barrier meets shuffle", "never open(.|\n)*at __syncwarp(.|\n)*at a shuffle"),
        ("past dynamic", "past the dynamic shared memory"),
    ],
)
def test_planted_faults_raise(name, message, seed):
    if name == "past dynamic" and sanitized:
        pytest.skip("AddressSanitizer stops the process here: see test_sanitized.py")
    with pytest.raises(RuntimeError, match=message):
        run(name, seed)
    assert run("block sum", seed)[0] == 127 * 64  # the emulator is whole again


def test_errors_cross_the_op_and_the_cpu_kernels_come_back():
    g = torch.ones(2, 3)
    with emulated(0, 512), pytest.raises(OP_ERRORS, match="g must have 2 dimensions"):
        torch.ops.jacfast.row_norm(g[0], "sumsq")
    with emulated(0, 2048), pytest.raises(RuntimeError, match="cotangents: invalid configuration"):
        torch.ops.jacfast.orthonormal_cotangents(torch.ones(1, 1, 4096), False)
    assert torch.ops.jacfast.row_norm(g, "sumsq")[0].tolist() == [3, 3]
    assert torch.ops.jacfast.orthonormal_cotangents(torch.ones(1, 1, 4096), False).isfinite().all()


def test_what_is_built_side_by_side_is_built_once(tmp_path, monkeypatch):
    """Two who need the kernels at once: the second waits, and neither throws away the other's."""
    compiled = []

    def compile_slowly(source, flags, folder):
        time.sleep(0.01)
        assert folder.exists()
        compiled.append(source)
        return folder / source.name

    def link(objects, flags, library):
        library.touch()
        return library

    monkeypatch.setattr(build, "_compiled", compile_slowly)
    monkeypatch.setattr(build, "_linked", link)
    with ThreadPoolExecutor(2) as pool:
        libraries = [*pool.map(lambda _: build.kernels(build=tmp_path), range(2))]
    assert libraries[0] == libraries[1]
    assert len(set(compiled)) == len(compiled) > 5
