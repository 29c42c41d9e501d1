"""From which size on is the step's node cheaper than plain double backward? (`step/plain.py`)

python -m benchmarks.small

Full steps of small networks with one projection, and with all rows of the Jacobian, one thread:
plain double backward as it is written today, and `forward_with_penalty` by its node and by plain
double backward. Which of the two it takes by itself is in the last column.
"""

import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

import jacfast
from benchmarks.harness import environment, must_agree, print_table, take_turns, write
from benchmarks.step import LAM, gradient
from jacfast import models
from jacfast.calling import parts, tree
from jacfast.penalties import Penalty
from jacfast.step import plain
from jacfast.timing import rivals
from jacfast.timing.ours import ours

ROUNDS, SECONDS = 15, 0.02  # of steps in a row, at least


def lenet() -> nn.Module:
    """Return LeNet-5 for [N, 1, 28, 28]."""
    return nn.Sequential(
        *(nn.Conv2d(1, 6, 5), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(6, 16, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()),
        *(nn.Linear(256, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU(), nn.Linear(84, 10)),
    )


def digits_cnn() -> nn.Module:
    """Return two convolutions for [N, 1, 8, 8]."""
    return nn.Sequential(
        *(nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Linear(128, 10)),
    )


def smooth_mlp() -> nn.Module:
    """Return an MLP with GELU and tanh for [N, 784]."""
    layers = [nn.Linear(784, 256), nn.GELU(), nn.Linear(256, 256), nn.Tanh(), nn.Linear(256, 10)]
    return nn.Sequential(*layers)


CASES: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], tuple[int, ...]]] = {
    "mlp 8-16-16-10": (lambda: models.mlp(8, 16, 16, 10), (8,), (1, 16)),
    "deep_defense_mlp": (models.deep_defense_mlp, (1, 28, 28), (16, 64, 256)),
    "mlp with GELU and tanh": (smooth_mlp, (784,), (16, 64, 256)),
    "cnn of 8 x 8": (digits_cnn, (1, 8, 8), (16, 64, 256)),
    "lenet": (lenet, (1, 28, 28), (4, 16, 32, 64)),
}


def always(by_plain: bool, penalty: Penalty) -> rivals.Step:
    """Return the step that takes one of the two ways, whatever the size."""
    step = ours(penalty)

    def run(*arguments: Tensor) -> None:
        asked, plain.is_cheaper = plain.is_cheaper, lambda *_: by_plain
        step(*arguments)
        plain.is_cheaper = asked

    return run


def measure(model: nn.Module, x: Tensor, y: Tensor, penalty: Penalty) -> dict:
    """Verify and time the three ways; the times are of a step."""
    rival = rivals.loop if penalty.n == "exact" else rivals.one_vector
    steps = {"double backward": rival, "node": always(False, penalty)}
    steps["plain"] = always(True, penalty)
    want = gradient(rival, model, x, y)
    for name, step in steps.items():
        must_agree(name, gradient(step, model, x, y), "double backward", want, 1e-4)

    def run(step: rivals.Step, times: int) -> None:
        for _ in range(times):
            model.zero_grad()
            step(model, x, y, LAM)

    start = time.perf_counter()
    run(rival, 1)
    count = max(1, round(SECONDS / (time.perf_counter() - start)))
    spent = take_turns({n: lambda s=s: run(s, count) for n, s in steps.items()}, ROUNDS)
    base = spent["double backward"]["median"]
    taken = "plain" if plain.is_cheaper(model, tree(model), penalty, x) else "node"
    return {
        "ms": {name: 1e3 * row["median"] / count for name, row in spent.items()},
        "of_double_backward": {name: row["median"] / base for name, row in spent.items()},
        "entries": parts.entries_of(model, x),
        "takes": taken,
    }


def main() -> None:
    """Measure, print a table and write the results."""
    torch.set_num_threads(1)
    results: dict = {}
    rows = [("", "double backward, ms", "node", "plain", "takes")]
    for name, (make, shape, counts) in CASES.items():
        torch.manual_seed(0)
        model = make().eval()
        for samples in counts:
            x, y = torch.rand(samples, *shape), torch.randint(10, (samples,))
            for n in (1, "exact"):
                one = measure(model, x, y, jacfast.Frobenius(n))
                case = f"{name}, N = {samples}, n = {n}"
                results[case], ratio = one, one["of_double_backward"]
                both = (f"{ratio[way]:.2f}" for way in ("node", "plain"))
                rows.append((case, f"{one['ms']['double backward']:.2f}", *both, one["takes"]))
    print_table("in steps by plain double backward", rows)
    print("written:", write("small-cpu", {"environment": environment()} | results))


if __name__ == "__main__":
    main()
