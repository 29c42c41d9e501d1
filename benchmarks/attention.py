"""What does the second derivative of attention cost, in time and memory, in tiles and by MATH?

python -m benchmarks.attention              forward, backward and double backward, [N, H, L, 64]
python -m benchmarks.attention --peak W L   what contender W needs at L tokens (for the above)

Contenders: PyTorch's MATH backend, which is differentiated twice by autograd, and what runs in the
penalised step: PyTorch's fused kernels with their second derivative in tiles. Both are checked
against MATH in float64 first. Times are processor time on one thread, in turns: they count what
this process does, on a machine that others use, too.
"""

import argparse
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from benchmarks.harness import environment, print_table, write
from jacfast import Frobenius, forward_with_penalty
from jacfast.graph import Graph
from jacfast.second import watched

SHAPES = (
    *((16, 3, 65), (2, 3, 197), (8, 3, 128)),  # few scores
    *((8, 6, 197), (2, 6, 577), (1, 6, 1024), (1, 6, 2048)),
)
TOKENS = (1025, 2048)
ROUNDS, WITHIN = 5, 2.0  # of the error that PyTorch's own float32 has
STATUS = Path("/proc/self/status")


def operands(shape: tuple[int, int, int]) -> tuple[list[Tensor], list[Tensor]]:
    """Return Q, K, V and dO; and the cotangents of dQ, dK, dV and of the output."""
    torch.manual_seed(0)
    draws = [torch.randn(*shape, 64) for _ in range(8)]
    return [t.requires_grad_() for t in draws[:4]], draws[4:]


def math(leaves: list[Tensor], cotangents: list[Tensor]) -> tuple[Tensor, ...]:
    q, k, v, g = leaves
    with sdpa_kernel(SDPBackend.MATH):
        out = F.scaled_dot_product_attention(q, k, v)
    first = torch.autograd.grad(out, (q, k, v), g, create_graph=True)
    return torch.autograd.grad([*first, out], leaves, cotangents)


def tiles(leaves: list[Tensor], cotangents: list[Tensor]) -> tuple[Tensor, ...]:
    q, k, v, g = leaves
    out = F.scaled_dot_product_attention(q, k, v)
    with watched(Graph(out), q):
        first = torch.autograd.grad(out, (q, k, v), g, create_graph=True)
    return torch.autograd.grad([*first, out], leaves, cotangents)


class ViT(nn.Module):
    """Tokens [N, L, 384] through two blocks."""

    def __init__(self) -> None:
        super().__init__()
        options = {"dropout": 0.0, "activation": "gelu", "batch_first": True, "norm_first": True}
        layers = [nn.TransformerEncoderLayer(384, 6, 1536, **options) for _ in range(2)]
        self.layers, self.out = nn.Sequential(*layers), nn.Linear(384, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.layers(x).mean(1))


def step_by_math(model: nn.Module, x: Tensor) -> None:
    x.requires_grad_()
    with sdpa_kernel(SDPBackend.MATH):
        logits = model(x)
    value = Frobenius(1)(logits, x)
    (F.cross_entropy(logits, torch.zeros(len(x), dtype=torch.long)) + value).backward()


def step(model: nn.Module, x: Tensor) -> None:
    logits, value = forward_with_penalty(model, x, penalty=Frobenius(1))
    (F.cross_entropy(logits, torch.zeros(len(x), dtype=torch.long)) + value).backward()


ATTENTION: dict[str, Callable] = {"MATH": math, "tiles": tiles}
STEPS: dict[str, Callable] = {"step by MATH": step_by_math, "penalised step": step}


def errors(shape: tuple[int, int, int]) -> dict[str, float]:
    """Return the relative error of each contender; raises if ours is beyond PyTorch's."""
    leaves, cotangents = operands(shape)
    exact = math([t.detach().double().requires_grad_() for t in leaves], _double(cotangents))
    found = {}
    for name, run in ATTENTION.items():
        pairs = zip(run(leaves, cotangents), exact, strict=True)
        found[name] = float(
            torch.stack([(one.double() - e).norm() / e.norm() for one, e in pairs]).amax()
        )
    if not found["tiles"] <= WITHIN * found["MATH"]:  # nor NaN, which amax keeps
        raise RuntimeError(
            f"at {shape} the error is {found['tiles']:.1e}, of MATH {found['MATH']:.1e}"
        )
    return found


def _double(tensors: list[Tensor]) -> list[Tensor]:
    return [t.double() for t in tensors]


def seconds(shape: tuple[int, int, int]) -> dict[str, float]:
    """Return the median of each contender's processor seconds, in turns."""
    leaves, cotangents = operands(shape)
    times: dict[str, list[float]] = {name: [] for name in ATTENTION}
    for _ in range(ROUNDS):
        for name, run in ATTENTION.items():
            start = time.process_time()
            run(leaves, cotangents)
            times[name].append(time.process_time() - start)
    return {name: statistics.median(each) for name, each in times.items()}


def peak(contender: str, tokens: int) -> int:
    """Return the bytes that a call adds to this process at its peak, after a small one."""
    for size in (16, tokens):
        if contender in ATTENTION:
            given = operands((1, 6, size))
        else:
            torch.manual_seed(0)
            given = ViT(), torch.randn(1, size, 384)
        Path("/proc/self/clear_refs").write_text("5")  # the peak is what there is now
        before = _kilobytes("VmRSS")
        (ATTENTION | STEPS)[contender](*given)
    return 1024 * (_kilobytes("VmHWM") - before)


def _kilobytes(name: str) -> int:
    (line,) = (line for line in STATUS.read_text().splitlines() if line.startswith(name))
    return int(line.split()[1])


def peaks(tokens: int) -> dict[str, int]:
    """Return the peak of each contender, in a process of its own."""
    found = {}
    for name in ATTENTION | STEPS:
        command = [sys.executable, "-m", "benchmarks.attention", "--peak", name, str(tokens)]
        found[name] = int(
            subprocess.run(command, check=True, capture_output=True, text=True).stdout
        )
    return found


def main() -> None:
    """Check, measure, print tables and write the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--peak", nargs=2, metavar=("CONTENDER", "TOKENS"))
    asked = parser.parse_args().peak
    torch.set_num_threads(1)
    if asked:
        print(peak(asked[0], int(asked[1])))
        return
    table = [("[N, H, L, 64]", "MATH ms", "tiles ms", "times", "error MATH", "tiles")]
    rows = []
    for shape in SHAPES:
        error, time_of = errors(shape), seconds(shape)
        rows.append({"shape": shape, "seconds": time_of, "error": error})
        ratio = time_of["MATH"] / time_of["tiles"]
        cells = [f"{1e3 * time_of[name]:.1f}" for name in ATTENTION] + [f"{ratio:.2f}"]
        table.append((str(shape), *cells, *(f"{error[name]:.1e}" for name in ATTENTION)))
    print_table("forward, backward and double backward, processor time on one thread", table)
    memory = {tokens: peaks(tokens) for tokens in TOKENS}
    table = [("tokens, N = 1, H = 6", *ATTENTION, *STEPS)]
    for tokens, found in memory.items():
        table.append((str(tokens), *(f"{size / 1e6:.0f}" for size in found.values())))
    print_table("peak memory of a call, MB", table)
    results = {"environment": environment(), "attention": rows, "peak_bytes": memory}
    print("written:", write("attention-cpu", results))


if __name__ == "__main__":
    main()
