"""How long do 64 workers wait for the slowest: a fixed stride against a work queue, simulated.

python -m benchmarks.stragglers

Batches are drawn from the iterations that DeepFool took of real digits, in foolbox's box, where
these differ most. The simulation is first held against what it stands for: 1, 2 and 4 processes
that take turns in `jacfast.team`, with batches that sleep as long as theirs would take (so that two
cores are enough for four of them). Beside it stands what two processes were measured to gain.
"""

import argparse
import heapq
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import mean, quantiles

from benchmarks.harness import RESULTS, environment, print_table, write
from jacfast.team import Team

WORKERS, SEEDS = 64, 100
IMAGES, SIZES = 50_000, (16, 64, 256)
SLOW = 0.5  # of the speed of the others
COSTS = {"work": sum, "calls": max}  # of a batch, of its samples' iterations
NAPS, NAP = 40, 0.1  # batches of the check, and their mean seconds
NEAR = 0.1  # how much longer than simulated the check may take: two cores serve four processes


def makespan(batches: list[float], speeds: list[float], queue: bool) -> float:
    """Return when the last worker is through.

    Args:
        batches: what each costs a worker of speed 1.
        speeds: of the workers.
        queue: whoever is free takes the next batch; else worker w has batches w, w + W, ...
    """
    if not queue:
        shares = (sum(batches[w :: len(speeds)]) / v for w, v in enumerate(speeds))
        return max(shares)
    free = [(0.0, w) for w in range(len(speeds))]  # a heap: when each is free
    for batch in batches:
        since, w = free[0]
        heapq.heapreplace(free, (since + batch / speeds[w], w))
    return max(free)[0]


def ideal(batches: list[float], speeds: list[float]) -> float:
    """Return when all would be through if batches could be cut anywhere."""
    return sum(batches) / sum(speeds)


def drawn(counts: list[int], size: int, images: int, cost: str, seed: int) -> list[float]:
    """Return the cost of each batch of `size` images drawn from `counts`."""
    draw = random.Random(seed).choices(counts, k=images)
    return [float(COSTS[cost](draw[i : i + size])) for i in range(0, images, size)]


def simulated(counts: list[int], size: int, cost: str, slow: bool, queue: bool) -> dict:
    """Return makespan over ideal: mean, and what 95% of the seeds stay below."""
    speeds = [1.0] * WORKERS
    speeds[0] = SLOW if slow else 1.0
    over = []
    for seed in range(SEEDS):
        batches = drawn(counts, size, IMAGES, cost, seed)
        over.append(makespan(batches, speeds, queue) / ideal(batches, speeds))
    return {"mean": mean(over), "p95": quantiles(over, n=20)[-1]}


def iterations() -> list[int]:
    """Return DeepFool's iterations of a thousand digits."""
    from benchmarks.deepfool import mnist
    from jacfast import deepfool
    from jacfast.attacks import PRESETS

    case = mnist(argparse.Namespace())
    found = deepfool(case.model, case.x, case.y, **PRESETS["foolbox"])
    assert found.success.all(), "the benchmark needs a run in which all are fooled"
    return found.iterations.tolist()


def nap(file: Path) -> None:
    """Take part in the check, as one process of several; the first one writes its seconds."""
    team = Team.here()
    team.agree({})
    start = time.perf_counter()
    for _, seconds in team.share(json.loads(file.read_text()), disable=True):
        time.sleep(seconds)
    if team.rank == 0:
        file.with_suffix(".seconds").write_text(str(time.perf_counter() - start))


def napped(naps: list[float], processes: int) -> float:
    """Return the seconds that so many processes take for all naps."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "naps.json"
        file.write_text(json.dumps(naps))
        run = ["torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
        command = [sys.executable, "-m", *run, "-m", "benchmarks.stragglers", str(file)]
        environ = {**os.environ, "OMP_NUM_THREADS": "1"}
        subprocess.run(command, env=environ, check=True, capture_output=True)
        return float(file.with_suffix(".seconds").read_text())


def verify(counts: list[int]) -> dict:
    """Hold the simulation against real processes; refuse one that is far off."""
    naps = drawn(counts, 16, 16 * NAPS, "calls", seed=0)  # those that differ most
    naps = [NAP * each / mean(naps) for each in naps]
    found = {}
    for processes in (1, 2, 4):
        want, got = makespan(naps, [1.0] * processes, queue=True), napped(naps, processes)
        assert 0 <= got - want < NEAR * want, (processes, want, got)
        found[processes] = {"simulated_s": want, "processes_s": got}
    return found


def measured(counts: list[int]) -> dict:
    """Return how much faster two processes are: simulated, and by `benchmarks.sharing`."""
    jobs = json.loads((RESULTS / "sharing.json").read_text())["jobs"]
    batches = drawn(counts, 50, 2000, "work", seed=0)
    ratio = sum(batches) / makespan(batches, [1.0, 1.0], queue=True)
    found = jobs["DeepFool, 2,000 digits"]["ratio"]
    assert ratio >= found, "measured above what is possible"
    return {"simulated": ratio, "measured": found}


def main() -> None:
    """Verify, simulate, print, write."""
    counts = iterations()
    results = {
        "environment": environment(),
        "iterations": {str(n): counts.count(n) for n in sorted(set(counts))},
        "workers": WORKERS,
        "images": IMAGES,
        "slow": SLOW,
        "processes": verify(counts),
        "two": measured(counts),
        "over_ideal": {},
    }
    rows = [("makespan / ideal, mean (95%)", "stride", "queue", "stride, 1 slow", "queue, 1 slow")]
    for cost in COSTS:
        for size in SIZES:
            found = {
                f"{'queue' if queue else 'stride'}{', one slow' if slow else ''}": simulated(
                    counts, size, cost, slow, queue
                )
                for slow in (False, True)
                for queue in (False, True)
            }
            results["over_ideal"][f"{cost}, {size}"] = found
            rows.append((f"{cost}, batches of {size}", *map(shown, found.values())))
    print_table(f"{WORKERS} workers, {IMAGES:,} images", rows)
    write("stragglers", results)


def shown(found: dict) -> str:
    """Return a cell of the table."""
    return f"{found['mean']:.2f} ({found['p95']:.2f})"


if __name__ == "__main__":
    if len(sys.argv) > 1:
        nap(Path(sys.argv[1]))
    else:
        main()
