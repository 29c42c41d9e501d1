"""What does an iteration of DeepFool cost on a GPU, eager and as a CUDA graph, beside predictions?

python -m benchmarks.loops        (on a CPU: the GPU's loop there, without a CUDA graph)
"""

import dataclasses
import inspect
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.harness import environment, print_table, take_turns, write
from benchmarks.rivals import recorded
from jacfast import deepfool, models
from jacfast.attacks.loop import Loop
from jacfast.attacks.options import Options
from jacfast.attacks.part import Part
from jacfast.attacks.search import Search
from jacfast.calling import Call, quiet

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
# Samples of random pixels: an iteration costs the same, whatever the network has learnt.
CASES: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "seck_c (MLP)": (models.seck_c, 64),
    "TF-tutorial CNN": (models.tf_tutorial_cnn, 64),
}
# Seconds of a launch: of the host, in eager mode, half of them from autograd's thread; and of the
# device, between two small kernels of a CUDA graph and in them.
EAGER, CAPTURED = 7e-6, 2.5e-6


class Operations(TorchDispatchMode):
    """Counts operations that are no views: each is about a launch."""

    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += not func.is_view and "empty" not in func.overloadpacket.__name__
        return func(*args, **(kwargs or {}))


def part_of(model: nn.Module, x: Tensor) -> Part:
    """Return the samples of x, all running, for `deepfool` as it is by default."""
    signature = inspect.signature(deepfool).parameters
    names = [field.name for field in dataclasses.fields(Options) if field.name in signature]
    options = Options(**{name: signature[name].default for name in names})
    call = Call(model, len(x))
    part = Loop(Search(call, options), call, x, None, None, masked=True).all
    part.running.fill_(True)
    return part


def measured(make: Callable[[], nn.Module], samples: int) -> dict:
    """Count, predict and time an iteration of the network's samples, and whole attacks."""
    torch.manual_seed(0)
    model, x = make().to(DEVICE).eval(), torch.rand(samples, 1, 28, 28, device=DEVICE)
    with quiet(model):
        part = part_of(model, x)

        def iterate() -> None:
            part.step(*part.evaluate())

        iterate()
        with Operations() as operations:
            iterate()
        runs: dict[str, Callable[[], None]] = {"eager": iterate}
        if DEVICE.type == "cuda":
            runs["captured"] = recorded(iterate)[0].replay
        predicted = {"eager": EAGER * operations.count, "captured": CAPTURED * operations.count}
        times = take_turns(runs, repeats=30)
    times |= take_turns({"deepfool": lambda: deepfool(model, x)}, repeats=5)
    found = {"operations": operations.count, "predicted": predicted, "times": times}
    return found | {"iterations": int(deepfool(model, x).iterations.max())}


def main() -> None:
    """Measure every case, print a table and write results/loops-cuda.json."""
    rows: list[tuple[str, ...]] = [("", "operations", "predicted, ms", "measured, ms")]
    cases = {}
    for title, (make, samples) in CASES.items():
        found = cases[title] = measured(make, samples)
        for name, times in found["times"].items():
            seconds = found["predicted"].get(name)
            predicted = "" if seconds is None else f"{1e3 * seconds:.2f}"
            row = (f"{title}, {name}", str(found["operations"]), predicted)
            rows.append((*row, f"{1e3 * times['median']:.2f}"))
    print_table(f"an iteration of DeepFool, {DEVICE.type}", rows)
    print("written:", write(f"loops-{DEVICE.type}", {"environment": environment(), "cases": cases}))


if __name__ == "__main__":
    main()
