"""What do the fused ops cost, against the same in eager PyTorch and against memory bandwidth?

python -m benchmarks.ops
"""

import math
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from benchmarks.harness import environment, print_table, take_turns, write
from jacfast.ops import (
    Nearest,
    deepfool_candidate,
    deepfool_step,
    halfspace_projection,
    halfspaces,
    orthonormal_cotangents,
    row_norm,
)
from jacfast.ops.row_norm import KINDS

SAMPLES = {"cpu": 500, "cuda": 4096}
CLASSES, SIZE, CUTS = 10, 3072, 3
REPEATS = 30
EAGER_NORM = {
    "sumsq": lambda g: g.square().sum(dim=1),
    "sumabs": lambda g: g.abs().sum(dim=1),
    "maxabs": lambda g: g.abs().amax(dim=1),
}


def eager_step(logits: Tensor, rows: Tensor, origin: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Compute the DeepFool step as one writes it in PyTorch."""
    sample = torch.arange(len(origin), device=rows.device)
    w = rows - rows[sample, origin][:, None]
    f = logits - logits.gather(1, origin[:, None])
    norm = torch.linalg.vector_norm(w, dim=2)
    distance = (f.abs() / norm).scatter(1, origin[:, None], float("inf"))
    nearest, winner = distance.min(dim=1)
    scale = nearest / norm[sample, winner]
    return w[sample, winner] * scale[:, None], winner, nearest


def candidates(logits: Tensor, rows: Tensor, labels: list[Tensor], nearest: Nearest) -> Nearest:
    """Offer every class's row as it stands (origin at zero) to the running nearest boundary."""
    nearest.distance.fill_(float("inf"))
    for k, label in enumerate(labels):
        deepfool_candidate(rows[:, k], logits[:, k], label, nearest)
    return nearest


def replacements(logits: Tensor, rows: Tensor) -> int:
    """Return how often a candidate is nearer than all before it: each costs a row written."""
    distance = logits.abs() / torch.linalg.vector_norm(rows, dim=2)
    best = distance.cummin(dim=1).values
    return len(rows) + int((best[:, 1:] < best[:, :-1]).sum())


class Problem:
    """The arrays that every contender reads, on the CPU or the GPU."""

    def __init__(self, device: torch.device, samples: int | None = None) -> None:
        samples = samples or SAMPLES[device.type]
        generator = torch.Generator(device).manual_seed(0)

        def draw(*shape: int) -> Tensor:
            return torch.randn(*shape, device=device, generator=generator)

        self.rows, self.logits = draw(samples, CLASSES, SIZE), draw(samples, CLASSES)
        self.draws = draw(10 * samples, 1, 1000)
        self.origin = self.logits.argmax(dim=1)
        self.flat = self.rows.view(samples * CLASSES, SIZE)
        self.labels = [torch.full_like(self.origin, k) for k in range(CLASSES)]
        self.nearest = Nearest.empty(samples, SIZE, self.rows)
        x = torch.rand(samples, SIZE, device=device, generator=generator)
        w = draw(samples, 1, SIZE) + 0.3 * draw(samples, CUTS, SIZE)  # boundaries of one class
        c = 0.02 * torch.linalg.vector_norm(w, dim=2) + 0.1 * draw(samples, CUTS)
        self.box, self.cuts = (-x, 1 - x), (w, SIZE**0.5 * c.double())

    def step(self):
        return deepfool_step(self.logits, self.rows, self.origin)

    def eager_step(self):
        return eager_step(self.logits, self.rows, self.origin)

    def candidates(self) -> Nearest:
        return candidates(self.logits, self.rows, self.labels, self.nearest)

    def project(self, p: float) -> tuple[Tensor, Tensor]:
        return halfspace_projection(*self.box, *self.cuts, p)

    def cotangents(self) -> Tensor:
        return orthonormal_cotangents(self.draws)


def verify(p: Problem) -> None:
    """Compare every op with eager PyTorch."""
    for got, want in zip(p.step(), p.eager_step(), strict=True):
        torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-6)
    for kind in KINDS:
        torch.testing.assert_close(row_norm(p.flat, kind), EAGER_NORM[kind](p.flat))
    distance = p.logits.abs() / torch.linalg.vector_norm(p.rows, dim=2)
    best, winner = distance.min(dim=1)
    kept = p.candidates()
    torch.testing.assert_close(kept.distance, best)
    assert torch.equal(kept.winner, winner)
    unit = p.draws / p.draws.norm(dim=2, keepdim=True)
    torch.testing.assert_close(p.cotangents(), unit * 1000**0.5)
    few = [t[:50] for t in (*p.box, *p.cuts)]
    for norm in (1, 2, math.inf):
        for got, want in zip(p.project(norm), halfspaces.reference(*few, norm), strict=True):
            torch.testing.assert_close(got[:50], want, rtol=0, atol=1e-5)


def contenders(p: Problem) -> dict[str, tuple[Callable[[], object], int]]:
    """Return by name what to time, and the bytes that it must move at least."""
    read, row = p.rows.numel() * 4, SIZE * 4
    step = read + len(p.rows) * row
    streamed = read + replacements(p.logits, p.rows) * row
    projected = (CUTS + 3) * len(p.rows) * row
    other, half = torch.empty_like(p.rows), p.flat.half()
    found: dict[str, tuple[Callable[[], object], int]] = {
        "copy of rows": (lambda: other.copy_(p.rows), 2 * read),
        "torch.sum of rows": (p.rows.sum, read),
        "deepfool_step": (p.step, step),
        "deepfool_step, eager": (p.eager_step, step),
        "deepfool_candidate, all classes": (p.candidates, streamed),
        "orthonormal_cotangents": (p.cotangents, 2 * p.draws.numel() * 4),
        "halfspace_projection, p = 2": (partial(p.project, 2), projected),
        "halfspace_projection, p = 2, eager": (
            lambda: halfspaces.reference(*p.box, *p.cuts, 2),
            projected,
        ),
        "halfspace_projection, p = inf": (partial(p.project, math.inf), projected),
        "halfspace_projection, p = 1": (partial(p.project, 1), projected),
        "row_norm sumsq, eager": (partial(EAGER_NORM["sumsq"], p.flat), read),
        "row_norm sumsq, float16": (partial(row_norm, half, "sumsq"), read // 2),
    }
    return found | {f"row_norm {kind}": (partial(row_norm, p.flat, kind), read) for kind in KINDS}


def ratios(times: dict[str, dict]) -> dict[str, float]:
    """Return the gain over eager PyTorch, and the bandwidth over that of a sum and of a copy."""
    step, eager = times["deepfool_step"]["median"], times["deepfool_step, eager"]["median"]
    found = {"step: eager over fused": eager / step}
    peaks = ("torch.sum of rows", "copy of rows")
    for peak in peaks:
        for name, t in times.items():
            if "eager" not in name and name not in peaks:
                found[f"{name}: share of the bandwidth of {peak}"] = t["GB/s"] / times[peak]["GB/s"]
    return found


def timed(runs: dict[str, tuple[Callable[[], object], int]], title: str) -> dict[str, dict]:
    """Time contenders that move so many bytes at least; print and return times and bandwidths."""
    times = take_turns({name: run for name, (run, _) in runs.items()}, REPEATS, kernels=True)
    table = [("", "ms", "fastest", "slowest", "GB/s")]
    for name, (_, moved) in runs.items():
        times[name] |= {"bytes": moved, "GB/s": moved / times[name]["median"] / 1e9}
        cells = [f"{1e3 * times[name][key]:.3f}" for key in ("median", "fastest", "slowest")]
        table.append((name, *cells, f"{times[name]['GB/s']:.1f}"))
    print_table(f"{title}; bytes counted once", table)
    return times


def against_pytorch(
    runs: dict[str, tuple[Callable[[], object], int]], title: str, file: str
) -> None:
    """Time contenders, each of which may have one named "..., PyTorch"; write times and ratios."""
    times = timed(runs, title)
    gains = {
        name: times[f"{name}, PyTorch"]["median"] / times[name]["median"]
        for name in times
        if f"{name}, PyTorch" in times
    }
    print("PyTorch over jacfast:", {name: round(gain, 2) for name, gain in gains.items()})
    results = {"environment": environment(), "times": times, "ratios": gains}
    print("written:", write(file, results))


def main() -> None:
    """Verify, time, print and write results/ops-cpu.json (or ops-cuda.json)."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    problem = Problem(device)
    verify(problem)
    times = timed(contenders(problem), f"rows {list(problem.rows.shape)} float32")
    shares = ratios(times)
    print_table("ratios", [("", "")] + [(name, f"{value:.2f}") for name, value in shares.items()])
    results = {"environment": environment(), "times": times, "ratios": shares}
    print("written:", write(f"ops-{device.type}", results))


if __name__ == "__main__":
    main()
