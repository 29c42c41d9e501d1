"""Train what a claim needs, seed by seed; go on where an earlier call stopped.

python -m benchmarks.claims at | l1 | smooth --data FOLDER [--seeds 3] [--choices NAME ...]

The folder holds MNIST; for `smooth` it may hold CIFAR-10.
"""

import argparse
import json
import time
from pathlib import Path

from benchmarks.claims import at, l1, smooth
from benchmarks.harness import RESULTS, environment, write
from jacfast import data

CLAIMS = {"at": at, "l1": l1, "smooth": smooth}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("claim", choices=CLAIMS)
    parser.add_argument("--data", type=Path, required=True, help="folder with the data set")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--choices", nargs="+", help="of the claim; default: all")
    options = parser.parse_args()
    claim, split = CLAIMS[options.claim], data.load(options.data)
    name = f"claims-{options.claim}" + ("" if split.train_x.shape[1] == 1 else "-cifar")
    file = RESULTS / f"{name}.json"
    found = json.loads(file.read_text()) if file.exists() else {"runs": []}
    found |= {"environment": environment(), "data": split.name, "checksum": split.checksum}
    done = {(run["choice"], run["which"], run["seed"]) for run in found["runs"]}
    for seed in range(options.seeds):
        networks = claim.Networks(split, seed)
        for choice, which in claim.runs():
            wanted = options.choices is None or choice in options.choices
            if (choice, which, seed) in done or not wanted:
                continue
            begun = time.perf_counter()
            figures = networks.measured(choice, which)
            seconds = round(time.perf_counter() - begun, 1)
            run = {"choice": choice, "which": which, "seed": seed, **figures, "seconds": seconds}
            found["runs"].append(run)
            print(run, flush=True)
            write(name, found)


if __name__ == "__main__":
    main()
