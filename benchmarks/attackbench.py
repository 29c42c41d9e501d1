"""What does AttackBench's own runner find and count, of our attacks and of adv-lib's?

python -m benchmarks.attackbench CHECKOUT [--images 100]

CHECKOUT is a clone of AttackBench, whose `run_attack` and `BenchModel` are called as they are; its
command line needs five more toolboxes, and says no more than which attack is called how.
"""

import argparse
import functools
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.harness import environment, print_table, write
from benchmarks.lengths import advlib
from benchmarks.minimal_norm import CASES, FIRST, optimality, right, trained
from jacfast import data
from jacfast.attacks.adapters import for_attackbench

NORMS = {"l2": 2, "linf": float("inf")}
BATCH = 50
Run = dict[str, Any]  # what AttackBench's runner returns


class Event:
    """A time of `torch.cuda.Event`'s form: the runner's clock, where there is no CUDA."""

    def __init__(self, enable_timing: bool = False) -> None:
        self.seconds = 0.0

    def record(self) -> None:
        self.seconds = time.perf_counter()

    def elapsed_time(self, end: "Event") -> float:
        return 1e3 * (end.seconds - self.seconds)


def attacks(norm: str) -> dict[str, Callable]:
    """Return attacks as AttackBench calls them, model, inputs, labels, targeted, targets.

    adv-lib's have its steps and its other constants, which are adv-lib's own where it names none.
    """
    p, shortest = NORMS[norm], functools.partial(for_attackbench, attack="minimal_norm")
    ours = {"deepfool": functools.partial(for_attackbench, norm=p)}
    for budget in (100, 200):
        ours[f"minimal_norm, {budget}"] = functools.partial(shortest, norm=p, budget=budget)
    from adv_lib import attacks as theirs

    def called(attack: Callable, **options: Any) -> Callable:
        def run(model: nn.Module, inputs: Tensor, labels: Tensor, **_: Any) -> Tensor:
            return attack(model, inputs, labels, **options)

        return run

    rivals = {
        "FMN of adv-lib, 1000 steps": called(theirs.fmn, norm=p, steps=1000),
        "PDPGD of adv-lib, 500 steps": called(theirs.pdpgd, norm=p, num_steps=500),
    }
    if norm == "l2":
        rivals["DDN of adv-lib, 1000 steps"] = called(theirs.ddn, steps=1000)
        rivals["PDGD of adv-lib, 500 steps"] = called(theirs.pdgd, num_steps=500)
    return ours | rivals


def measure(runner: Any, wrapper: Any, net: nn.Module, images: tuple, norm: str) -> dict[str, Run]:
    """Return what AttackBench's runner found of every attack; raise if it had a failure to tell."""
    found = {}
    for name, attack in attacks(norm).items():
        model = wrapper.BenchModel(net).eval().requires_grad_(False)
        torch.manual_seed(0)
        set_of = torch.utils.data.TensorDataset(*images)
        loader = torch.utils.data.DataLoader(set_of, batch_size=BATCH)
        found[name] = run = runner.run_attack(model, loader, attack, threat_model=norm)
        net._backward_hooks.clear()  # BenchModel's, which would count for the next one, too
        if any(run["batch_failures"] + run["box_failures"]):
            raise RuntimeError(f"{name} failed in a batch, or left the box")
    return found


def rows(found: dict[str, Run], norm: str) -> dict[str, dict[str, float]]:
    far = {name: torch.tensor(run["best_optim_distances"][norm]) for name, run in found.items()}
    best = torch.stack(list(far.values())).amin(dim=0)
    return {
        name: {
            "optimality": optimality(far[name], best),
            "median": float(far[name].median()),
            "failed": int(far[name].isinf().sum()),
            "forwards": sum(run["num_forwards"]) / len(best),
            "backwards": sum(run["num_backwards"]) / len(best),
        }
        for name, run in found.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkout", type=Path, help="a clone of AttackBench")
    parser.add_argument("--images", type=int, default=100)
    arguments = parser.parse_args()
    sys.path.insert(0, str(arguments.checkout))
    advlib(2)  # imports adv-lib with what it lacks here
    from attack_evaluation import utils as runner
    from attack_evaluation.models import benchmodel_wrapper as wrapper

    if not torch.cuda.is_available():
        torch.cuda.Event, torch.cuda.synchronize = Event, lambda: None  # type: ignore
    warnings.filterwarnings("ignore", message="Full backward hook")
    split, results = data.load(None), {}
    for case in ("CNN", "CNN, PGD-trained"):
        net = trained(*CASES[case])
        images = right(net, split, FIRST, arguments.images)
        for norm in NORMS:
            found = rows(measure(runner, wrapper, net, images, norm), norm)
            results[f"{case}, {norm}"] = found
            show(f"{case}, {norm}", found)
    about = {"environment": environment("adv-lib"), "data": split.name, "images": arguments.images}
    write("attackbench", {**about, "cases": results})


def show(title: str, found: dict[str, dict[str, float]]) -> None:
    table: list[tuple[str, ...]] = [("", "optimality", "median", "failed", "forwards", "backwards")]
    for name, of in found.items():
        passes = (f"{of[key]:.1f}" for key in ("forwards", "backwards"))
        table.append(
            (name, f"{of['optimality']:.3f}", f"{of['median']:.4f}", str(of["failed"]), *passes)
        )
    print_table(title, table)


if __name__ == "__main__":
    main()
