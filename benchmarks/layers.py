"""Which lean layers pay on this device? The penalised step with all, without each kind, with none.

JACFAST_LEAN_ON_GPU=1 python -m benchmarks.layers [mlp | tf_cnn | cifar_cnn | vit ...]

The variable is for a GPU, where all are off without it.
"""

import argparse
import contextlib
import functools
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import nn
from torch.profiler import ProfilerActivity, profile

import jacfast
from benchmarks.harness import environment, must_agree, print_table, take_turns, write
from benchmarks.rivals import captured
from benchmarks.step import AT_LEAST, CASES, DEVICE, LAM, REPEATS, gradient
from jacfast.lean import TRAINING, training
from jacfast.lean.activations import ACTIVATIONS
from jacfast.lean.norms import NORMS
from jacfast.timing import rivals
from jacfast.timing.ours import ours

KINDS = {
    "conv": (torch.conv1d, torch.conv2d, torch.conv3d),
    "relu": (F.relu, torch.relu, torch.relu_, torch.Tensor.relu, torch.Tensor.relu_),
    "max-pooling": (F.max_pool2d, torch.max_pool2d),
    "activations": tuple(ACTIVATIONS),
    "normalisation": tuple(NORMS),
}
NONE = tuple(TRAINING.layers)


@contextlib.contextmanager
def without(functions: tuple) -> Iterator[None]:
    """Let these functions run as they are in the penalised step."""
    taken = {function: TRAINING.layers.pop(function) for function in functions}
    try:
        yield
    finally:
        TRAINING.layers.update(taken)


def variant(step: rivals.Step, functions: tuple) -> rivals.Step:
    def run(model: nn.Module, x: torch.Tensor, y: torch.Tensor, lam: float) -> None:
        with without(functions):
            step(model, x, y, lam)

    return run


def launches(step: rivals.Step, *inputs) -> int:
    """Return how many kernels a step runs on the GPU, or ops on the CPU."""
    kinds = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if DEVICE == "cuda" else [])]
    with profile(activities=kinds) as found:
        step(*inputs)
    wanted = torch.autograd.DeviceType.CUDA if DEVICE == "cuda" else torch.autograd.DeviceType.CPU
    if DEVICE == "cuda":
        print(found.key_averages().table(sort_by="device_time_total", row_limit=15))
    return sum(event.device_type == wanted for event in found.events())


def measure(name: str) -> dict:
    """Verify and time the variants on one network, eager and, on a GPU, captured."""
    make, shape, samples, count = CASES[name]
    count = max(count, AT_LEAST)
    torch.manual_seed(0)
    model, x = make().eval().to(DEVICE), torch.rand(samples, *shape, device=DEVICE)
    y = torch.randint(10, (samples,), device=DEVICE)
    step = rivals.by_math(ours(jacfast.Frobenius()))
    steps = {
        "plain": rivals.plain,
        "double backward": rivals.by_math(rivals.one_vector),
        "all": step,
    }
    steps |= {f"without {kind}": variant(step, functions) for kind, functions in KINDS.items()}
    steps["none"] = variant(step, NONE)
    torch.backends.cudnn.allow_tf32 = False
    want = gradient(steps["double backward"], model, x, y)
    for key in list(steps)[2:]:
        must_agree(key, gradient(steps[key], model, x, y), "double backward", want, 1e-3)
    torch.backends.cudnn.allow_tf32 = True
    counts = {key: launches(step, model, x, y, LAM) for key, step in steps.items()}
    if DEVICE == "cuda":
        steps |= {f"{key}, captured": captured(step) for key, step in steps.items()}

    def run(step: rivals.Step) -> None:
        for _ in range(count):
            model.zero_grad()
            step(model, x, y, LAM)

    times = take_turns({key: functools.partial(run, s) for key, s in steps.items()}, REPEATS)
    rows = {}
    for key, spent in times.items():
        base = times["plain, captured" if key.endswith(", captured") else "plain"]["median"]
        rows[key] = {stat: value / count for stat, value in spent.items()}
        rows[key] |= {"plain_steps": spent["median"] / base, "launches": counts.get(key)}
    return {"samples": samples, "variants": rows}


def main() -> None:
    """Measure, print tables and write the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("cases", nargs="*", choices=[*CASES, []], help="default: all")
    cases = parser.parse_args().cases or CASES
    if training(torch.device(DEVICE)) is not TRAINING:
        parser.error("on a GPU lean layers are off: set JACFAST_LEAN_ON_GPU=1")
    for name in cases:
        results = {"environment": environment()} | measure(name)
        rows = [("", "ms", "plain steps", "launches")]
        for key, row in results["variants"].items():
            cells = (f"{1e3 * row['median']:.3f}", f"{row['plain_steps']:.2f}")
            rows.append((key, *cells, str(row["launches"] or "")))
        print_table(f"{name}, {results['samples']} samples, {DEVICE}", rows)
        print("written:", write(f"layers-{name}-{DEVICE}", results))


if __name__ == "__main__":
    main()
