"""How does the time of DeepFool grow with samples, classes and inputs, for us and for others?

python -m benchmarks.scaling [--peers foolbox art torchattacks]
"""

import argparse
import time
from collections.abc import Callable

import torch
from torch import nn

from benchmarks.deepfool import PEERS, Case, synthetic
from benchmarks.harness import RESULTS, environment, print_table, write
from jacfast import deepfool
from jacfast.timing.toolboxes import FOOLBOX_ALL, call

GRID = {
    "samples": [(n, 10, 768) for n in (16, 64, 256, 1024)],
    "classes": [(64, k, 768) for k in (10, 30, 100, 300)],
    "inputs": [(64, 10, d) for d in (192, 768, 3072, 12288)],
}
PATIENCE = 15.0  # seconds: after a point that took longer, a contender is not run on larger ones


def network(inputs: int, classes: int) -> nn.Sequential:
    """An MLP of two hidden layers."""
    layers: list[nn.Module] = [nn.Flatten()]
    for before, after in ((inputs, 512), (512, 512)):
        layers += [nn.Linear(before, after), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(512, classes))


def floor(case: Case, vjps: float, rate: float) -> float:
    """Return the seconds that the multiplications of these vector-Jacobian products need."""
    macs = sum(layer.weight.numel() for layer in case.model if isinstance(layer, nn.Linear))
    return len(case.x) * vjps * 2 * macs / rate


def matmul_rate() -> float:
    """Return the operations per second of a large product of matrices."""
    a = torch.rand(2048, 2048)
    return 2 * 2048**3 / min(seconds(torch.mm, a, a) for _ in range(5))


def seconds(run: Callable, *arguments: object) -> float:
    """Time one call."""
    start = time.perf_counter()
    run(*arguments)
    return time.perf_counter() - start


def measure(axis: str, names: list[str], rate: float) -> list[dict]:
    """Time every contender at every point of one axis, each after a run of two samples."""
    patient, points = dict.fromkeys(("jacfast", *names), True), []
    for samples, classes, inputs in GRID[axis]:
        case = synthetic(
            samples,
            classes,
            (3, int((inputs // 3) ** 0.5), int((inputs // 3) ** 0.5)),
            network(inputs, classes),
            epochs=3,
        )
        x, y = case.x, case.y
        vjps = float(deepfool(case.model, x, y, **FOOLBOX_ALL.choices).vjps.double().mean())
        point = {"samples": samples, "classes": classes, "inputs": inputs, "vjps": vjps}
        point |= {"seconds": {}, "floor": floor(case, vjps, rate)}
        runs = {"jacfast": lambda x, y, m=case.model: deepfool(m, x, y, **FOOLBOX_ALL.choices)}
        for name in names:
            peer = FOOLBOX_ALL if name == "foolbox" else PEERS[name]
            attack = peer.make(case.model, x, classes)
            runs[name] = lambda x, y, attack=attack: call(attack, x, y)
        for name, run in runs.items():
            if patient[name]:
                run(x[:2], y[:2])
                spent = point["seconds"][name] = seconds(run, x, y)
                patient[name] = spent < PATIENCE
        points.append(point)
    return points


def draw(results: dict) -> None:
    """Draw time against each axis, both logarithmic, with the floor."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 3, figsize=(12, 4), sharey=True, layout="constrained")
    for axis, (name, points) in zip(axes, results["axes"].items(), strict=True):
        for contender in points[0]["seconds"]:
            shown = [p for p in points if contender in p["seconds"]]
            axis.loglog(
                [p[name] for p in shown],
                [p["seconds"][contender] for p in shown],
                "o-",
                label=contender,
            )
        axis.loglog(
            [p[name] for p in points],
            [p["floor"] for p in points],
            "k--",
            label="floor of jacfast's products",
        )
        axis.set_xlabel(name)
        axis.grid(alpha=0.3, which="both")
    axes[0].set_ylabel("seconds")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=5)
    figure.savefig(RESULTS / "scaling-cpu.png", dpi=120)
    plt.close(figure)


def main() -> None:
    """Measure, draw, print and write the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peers", nargs="*", choices=PEERS, default=["foolbox"])
    names = parser.parse_args().peers
    rate = matmul_rate()
    results = {"environment": environment(*(PEERS[name].package for name in names))}
    results |= {"matmul_flops": rate}
    results["axes"] = {axis: measure(axis, names, rate) for axis in GRID}
    for axis, points in results["axes"].items():
        table = [("", *(str(point[axis]) for point in points))]
        for name in ("jacfast", *names):
            table.append((name, *(_cell(point["seconds"].get(name)) for point in points)))
        table.append(("floor", *(_cell(point["floor"]) for point in points)))
        print_table(f"seconds against {axis}", table)
    draw(results)
    print("written:", write("scaling-cpu", results))


def _cell(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}"


if __name__ == "__main__":
    main()
