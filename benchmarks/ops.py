"""What do the fused ops cost, against the same in eager PyTorch and against memory bandwidth?

python -m benchmarks.ops
"""

import torch
from torch import Tensor

from benchmarks.harness import environment, print_table, take_turns, write
from jacfast.ops import deepfool_step, row_norm

SAMPLES, CLASSES, SIZE = 500, 10, 3072
REPEATS = 30


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


def main() -> None:
    """Verify, time, print and write results/ops-cpu.json (or ops-GPU.json)."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    generator = torch.Generator(device).manual_seed(0)
    rows = torch.randn(SAMPLES, CLASSES, SIZE, device=device, generator=generator)
    logits = torch.randn(SAMPLES, CLASSES, device=device, generator=generator)
    origin = logits.argmax(dim=1)
    flat = rows.view(SAMPLES * CLASSES, SIZE)

    ours, eager = deepfool_step(logits, rows, origin), eager_step(logits, rows, origin)
    for got, want in zip(ours, eager, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(row_norm(flat, "sumsq"), flat.square().sum(dim=1))

    read, written = rows.numel() * 4, SAMPLES * SIZE * 4
    contenders = {
        "torch.sum of rows": (lambda: rows.sum(), read),
        "deepfool_step": (lambda: deepfool_step(logits, rows, origin), read + written),
        "deepfool_step, eager": (lambda: eager_step(logits, rows, origin), read + written),
        "row_norm sumsq": (lambda: row_norm(flat, "sumsq"), read),
        "row_norm sumsq, eager": (lambda: flat.square().sum(dim=1), read),
    }
    times = take_turns({name: run for name, (run, _) in contenders.items()}, REPEATS)
    for name, (_, moved) in contenders.items():
        times[name]["bytes"] = moved
        times[name]["GB/s"] = moved / times[name]["median"] / 1e9
    peak = times["torch.sum of rows"]["GB/s"]
    step = times["deepfool_step"]
    ratios = {
        "step: eager over fused": times["deepfool_step, eager"]["median"] / step["median"],
        "step: share of torch.sum's bandwidth": step["GB/s"] / peak,
        "row_norm: share of torch.sum's bandwidth": times["row_norm sumsq"]["GB/s"] / peak,
    }
    table = [("", "ms", "fastest", "slowest", "GB/s")]
    for name, t in times.items():
        milliseconds = (f"{1e3 * t[key]:.2f}" for key in ("median", "fastest", "slowest"))
        table.append((name, *milliseconds, f"{t['GB/s']:.1f}"))
    print_table(f"rows [{SAMPLES}, {CLASSES}, {SIZE}] float32; bytes counted once", table)
    print_table("ratios", [("", "")] + [(name, f"{value:.2f}") for name, value in ratios.items()])
    results = {"environment": environment(), "times": times, "ratios": ratios}
    print("written:", write(f"ops-{device.type}", results))


if __name__ == "__main__":
    main()
