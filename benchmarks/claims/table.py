"""Print what the runs of the claims found, as tables: python -m benchmarks.claims.table."""

import json
import statistics
from typing import Any

from benchmarks.claims import at, l1, smooth
from benchmarks.harness import RESULTS

Runs = dict[tuple[str, str, int], dict[str, float]]


def main() -> None:
    """Print the tables, as far as there are results."""
    tables = {"at": at_lines, "l1": l1_lines, "smooth": smooth_lines, "smooth-cifar": smooth_lines}
    for name, lines in tables.items():
        file = RESULTS / f"claims-{name}.json"
        if file.exists():
            print("\n".join(lines(by_run(json.loads(file.read_text())))), end="\n\n")


def by_run(found: dict[str, Any]) -> Runs:
    """Return the figures of each run, by choice, which and seed."""
    return {(run["choice"], run["which"], run["seed"]): run for run in found["runs"]}


def at_lines(runs: Runs) -> list[str]:
    """Return rho_adv x 100 and accuracy without and with AT, and what AT adds, by seed."""
    first = {at.alone(choice): name for name, choice in reversed(at.CHOICES.items())}
    head = "| choice | rho_adv x 100 without AT | with AT | gain, by seed | accuracy of both, % |"
    lines = [head, "|---|---|---|---|---|"]
    for name, choice in at.CHOICES.items():
        pairs = _pairs(runs, (first[at.alone(choice)], "alone"), (name, "with AT"))
        if pairs:
            without, attacked = ([pair[i]["rho"] for pair in pairs] for i in (0, 1))
            clean = [statistics.mean(pair[i]["clean"] for pair in pairs) for i in (0, 1)]
            cells = [_spread(without), _spread(attacked), _gain(without, attacked)]
            lines.append(f"| {name} | {' | '.join(cells)} | {clean[0]:.1f}, {clean[1]:.1f} |")
    return lines


def l1_lines(runs: Runs) -> list[str]:
    """Return the accuracies at the smallest and the largest weight, and what that one gains."""
    low, high = (f"{lam:g}" for lam in l1.WEIGHTS)
    heads = {"attacked": f"FGSM {l1.EPS}", "small": f"BIM {l1.SMALL}", "clean": "no attack"}
    columns = " | ".join(f"{head}: λ = {low} | λ = {high} | gain" for head in heads.values())
    lines = [f"| choice | seeds | {columns} |", "|---" * (2 + 3 * len(heads)) + "|"]
    for name in l1.CHOICES:
        pairs = _pairs(runs, (name, low), (name, high))
        if pairs:
            cells = []
            for key in heads:
                less, more = ([pair[i][key] for pair in pairs] for i in (0, 1))
                cells += [_spread(less), _spread(more), _gain(less, more)]
            lines.append(f"| {name} | {len(pairs)} | {' | '.join(cells)} |")
    return lines


def smooth_lines(runs: Runs) -> list[str]:
    """Return the figures of each choice, activation by activation: means over the seeds."""
    heads = {"clean": "clean, %", "pgd": "PGD, %", "robust": "robust, %", "training": "seconds"}
    columns = [
        f"{activation}: {head}" for activation in smooth.ACTIVATIONS for head in heads.values()
    ]
    lines = [f"| choice | seeds | {' | '.join(columns)} |", "|---" * (2 + len(columns)) + "|"]
    for name in smooth.CHOICES:
        cells, seeds = [], 0
        for activation in smooth.ACTIVATIONS:
            found = [run for (*which, _), run in runs.items() if which == [name, activation]]
            seeds = max(seeds, len(found))
            cells += [_spread([run[key] for run in found], 1) if found else "" for key in heads]
        if seeds:
            lines.append(f"| {name} | {seeds} | {' | '.join(cells)} |")
    return lines


def _pairs(
    runs: Runs, before: tuple[str, str], after: tuple[str, str]
) -> list[tuple[dict[str, float], dict[str, float]]]:
    """Return the runs of both, of the seeds that both have."""
    seeds = sorted(seed for *which, seed in runs if tuple(which) == before)
    return [(runs[*before, seed], runs[*after, seed]) for seed in seeds if (*after, seed) in runs]


def _spread(values: list[float], digits: int = 2) -> str:
    sd = f" ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.{digits}f}{sd}"


def _gain(before: list[float], after: list[float]) -> str:
    """Return the mean of the gains, and each."""
    gains = [b - a for a, b in zip(before, after, strict=True)]
    each = ", ".join(f"{gain:+.2f}" for gain in gains)
    return each if len(gains) == 1 else f"{statistics.mean(gains):+.2f} ({each})"


if __name__ == "__main__":
    main()
