"""What the op tests share: the lives of an op, tolerances per dtype, awkward sizes and layouts."""

import contextlib
import dataclasses
import warnings
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

import jacfast.batching
from jacfast.ops import lives
from tests.emulation import build

# The CUDA kernels in the emulator: the seed of the order that threads run in (0: ascending), and
# the largest block.
EMULATED = {
    "emulated": (0, 512),
    "emulated-96-shuffled": (1, 96),
    "emulated-32-shuffled": (2, 32),
}
LIVES = ("reference", "cpu", *EMULATED, "cuda")
# What no emulated kernel can fail alone: threads and the order of sums, of which the emulator has
# one each, and what surrounds kernels (derivatives, compilation): their values are held elsewhere.
not_emulated = pytest.mark.parametrize("life", ["reference", "cpu", "cuda"], indirect=True)
DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
# Relative to the largest entry of the expected result: a few units in the last place.
TOLERANCE = {
    torch.float64: 1e-14,
    torch.float32: 1e-6,
    torch.float16: 2e-3,
    torch.bfloat16: 1.6e-2,
}
# Around vector widths, lanes, packs, blocks and parts.
SIZES = (1, 2, 3, 4, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65, 127, 128, 129, 255, 256, 257)
# Of an op that is called directly: PyTorch 2.15 keeps the words of its errors, and not their type.
OP_ERRORS = (ValueError, RuntimeError)
whole_steps_compile = pytest.mark.skipif(
    torch.__version__ < (2, 13), reason="dynamo follows no requires_grad_ in what it compiles"
)
LONG = (1023, 1024, 1025, 4095, 4096, 4097, 8193, 12_300)


@dataclasses.dataclass(frozen=True)
class Life:
    """One implementation of the ops, with the device its tensors live on."""

    name: str
    device: torch.device

    def randn(self, *shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        draw = torch.randn(*shape, dtype=torch.float64, generator=generator)
        return draw.to(dtype).to(self.device)

    def tensor(self, values, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.tensor(values, dtype=dtype, device=self.device)


def missing(name: str) -> str:
    """Say why a life cannot be tested here; empty if it can."""
    if name == "cuda" and not torch.cuda.is_available():
        return "no GPU is visible"
    if name in EMULATED:
        return build.missing() or missing("cpu")
    if name != "reference" and name not in lives.BUILT:
        return f"the extension is not built for {name}"
    return ""


@contextlib.contextmanager
def no_waiting() -> Iterator[None]:
    """Turn every wait of the host for a GPU into an error."""
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


@contextlib.contextmanager
def emulated(seed: int, max_threads: int) -> Iterator[None]:
    """Let the emulated CUDA kernels take the place of the CPU kernels of torch.ops.jacfast.

    Memory that the ops allocate holds NaN (or the largest integer) until a kernel writes it.
    """
    build.load().emulation_configure(seed, max_threads)
    deterministic = torch.are_deterministic_algorithms_enabled()
    stand_in = torch.library.Library("jacfast", "IMPL")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that these override the CPU kernels: so they should
        for name in filter(lives.has, lives.NAMES):
            kernel = getattr(torch.ops.jacfast_emulated, name).default
            stand_in.impl(name, kernel, "CPU")
    torch.use_deterministic_algorithms(True)  # this is what fills new memory
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(deterministic)
        stand_in._destroy()  # the CPU kernels are back


def batch_rows(monkeypatch: pytest.MonkeyPatch, together: bool) -> None:
    """Let all rows of a Jacobian go back at once that may, whether that pays or not, or none."""
    for name in ("ROW_BYTES", "ROWS_BYTES"):
        monkeypatch.setattr(jacfast.batching, name, 1 << 40 if together else 0)
    monkeypatch.setattr(jacfast.batching, "_weight", lambda _: 0)


def largest(values: Tensor) -> float:
    """Return the largest finite magnitude among the values; 1 if none is finite."""
    return float(values[values.isfinite()].abs().max()) if values.isfinite().any() else 1.0


def assert_close(got: Tensor, want: Tensor, dtype: torch.dtype, scale: float = 0.0) -> None:
    """Compare with float64 truth, within the tolerance of the dtype that was computed in.

    It is relative to the largest value, or to `scale`, that of what was summed up, if that is more.
    """
    got, want = got.detach().double().cpu(), want.double().cpu()
    assert got.shape == want.shape
    scale = max(scale, largest(want))
    torch.testing.assert_close(got, want, rtol=0, atol=TOLERANCE[dtype] * scale, equal_nan=True)


def starting_at(x: Tensor, offset: int) -> Tensor:
    """Return `x` in rows 16 entries or a multiple apart, `offset` entries past the boundaries."""
    pitch = (x.shape[-1] + offset + 15) // 16 * 16
    wide = x.new_full((*x.shape[:-1], pitch), float("nan"))
    wide[..., offset : offset + x.shape[-1]] = x
    return wide[..., offset : offset + x.shape[-1]]


def layouts(x: Tensor) -> dict[str, Tensor]:
    """Return the values of `x` [..., D] in other memory layouts."""
    wide = x.new_full((*x.shape[:-1], x.shape[-1] + 3), float("nan"))
    wide[..., 1:-2] = x
    strided = x.new_full((*x.shape[:-1], 2 * x.shape[-1]), float("nan"))
    strided[..., ::2] = x
    return {
        "offset": wide[..., 1:-2],
        "strided": strided[..., ::2],
        "transposed": x.transpose(0, -1).contiguous().transpose(0, -1),
    }
