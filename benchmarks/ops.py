"""What do the fused ops cost, against the same in eager PyTorch and against memory bandwidth?

python -m benchmarks.ops
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.harness import environment, print_table, take_turns, write
from jacfast.ops import Nearest, deepfool_candidate, deepfool_step, orthonormal_cotangents, row_norm
from jacfast.ops.row_norm import KINDS

SAMPLES = {"cpu": 500, "cuda": 4096}
CLASSES, SIZE = 10, 3072
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


def main() -> Path:
    """Verify, time, print and write results/ops-cpu.json (or ops-cuda.json)."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    samples = SAMPLES[device.type]
    generator = torch.Generator(device).manual_seed(0)
    rows = torch.randn(samples, CLASSES, SIZE, device=device, generator=generator)
    logits = torch.randn(samples, CLASSES, device=device, generator=generator)
    draws = torch.randn(10 * samples, 1, 1000, device=device, generator=generator)
    origin = logits.argmax(dim=1)
    flat = rows.view(samples * CLASSES, SIZE)
    labels = [torch.full_like(origin, k) for k in range(CLASSES)]
    nearest = Nearest.empty(samples, SIZE, rows)
    other = torch.empty_like(rows)

    ours, eager = deepfool_step(logits, rows, origin), eager_step(logits, rows, origin)
    for got, want in zip(ours, eager, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-6)
    for kind in KINDS:
        torch.testing.assert_close(row_norm(flat, kind), EAGER_NORM[kind](flat))
    distance = logits.abs() / torch.linalg.vector_norm(rows, dim=2)
    best, winner = distance.min(dim=1)
    kept = candidates(logits, rows, labels, nearest)
    torch.testing.assert_close(kept.distance, best)
    assert torch.equal(kept.winner, winner)
    torch.testing.assert_close(
        orthonormal_cotangents(draws), draws / draws.norm(dim=2, keepdim=True) * 1000**0.5
    )

    read, row = rows.numel() * 4, samples * SIZE * 4
    step = read + row
    streamed = read + replacements(logits, rows) * SIZE * 4
    contenders: dict[str, tuple[Callable[[], object], int]] = {
        "copy of rows": (lambda: other.copy_(rows), 2 * read),
        "torch.sum of rows": (lambda: rows.sum(), read),
        "deepfool_step": (lambda: deepfool_step(logits, rows, origin), step),
        "deepfool_step, eager": (lambda: eager_step(logits, rows, origin), step),
        "deepfool_candidate, all classes": (
            lambda: candidates(logits, rows, labels, nearest),
            streamed,
        ),
        "orthonormal_cotangents": (lambda: orthonormal_cotangents(draws), 2 * draws.numel() * 4),
    }
    for kind in KINDS:
        contenders[f"row_norm {kind}"] = (partial(row_norm, flat, kind), read)
    contenders["row_norm sumsq, eager"] = (lambda: EAGER_NORM["sumsq"](flat), read)
    runs = {name: run for name, (run, _) in contenders.items()}
    times = take_turns(runs, REPEATS, kernels=True)
    for name, (_, moved) in contenders.items():
        times[name]["bytes"] = moved
        times[name]["GB/s"] = moved / times[name]["median"] / 1e9

    ratios = {
        "step: eager over fused": times["deepfool_step, eager"]["median"]
        / times["deepfool_step"]["median"]
    }
    for peak in ("torch.sum of rows", "copy of rows"):
        for name in runs:
            if "eager" not in name and name not in ("torch.sum of rows", "copy of rows"):
                share = times[name]["GB/s"] / times[peak]["GB/s"]
                ratios[f"{name}: share of the bandwidth of {peak}"] = share
    table = [("", "ms", "fastest", "slowest", "GB/s")]
    for name, t in times.items():
        milliseconds = (f"{1e3 * t[key]:.3f}" for key in ("median", "fastest", "slowest"))
        table.append((name, *milliseconds, f"{t['GB/s']:.1f}"))
    print_table(f"rows [{samples}, {CLASSES}, {SIZE}] float32; bytes counted once", table)
    print_table("ratios", [("", "")] + [(name, f"{value:.2f}") for name, value in ratios.items()])
    results = {"environment": environment(), "times": times, "ratios": ratios}
    path = write(f"ops-{device.type}", results)
    print("written:", path)
    return path


if __name__ == "__main__":
    main()
