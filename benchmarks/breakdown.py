"""Where is the time of a penalised step, on ten networks of torchvision and timm?

python -m benchmarks.breakdown [WORD ...]

By PyTorch's profiler, one thread, eval mode: what is spent inside operations of each kind, in units
of the plain step that is profiled in the same run. `calls` is all that is in none: the engine of
autograd, views, Python. The profiler itself costs some, most where calls are small.
"""

import argparse
import re
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

import jacfast
from benchmarks.harness import environment, print_table, write
from benchmarks.sizes import DEVICE, LAM, cases, verified
from jacfast.timing import rivals
from jacfast.timing.ours import ours

STEPS = 5
KINDS = {  # of operations' names, the first that fits
    "products": r"::(mm|addmm|addmv|mv|dot)$",
    "convolutions": r"conv",
    "attention": r"attention|::(bmm|baddbmm_?)$|softmax",
    "norms": r"norm_first|norm_second|_norm",
    "activations": r"activation|gelu|silu|relu|hardswish|hardsigmoid|sigmoid|tanh|threshold",
    "the rest": r"::(add|mul|sub|div|sum|mean|pow|exp|copy|fill|cat|index|index_put|clamp|where"
    r"|masked_fill|square|rsub|neg|zero|_index_put_impl)_?$",
}


class Contender(NamedTuple):
    """A step, and where its time is."""

    name: str
    step: rivals.Step


CONTENDERS = (
    Contender("plain", rivals.plain),
    Contender("double backward", rivals.by_math(rivals.one_vector)),
    Contender("jacfast", ours(jacfast.Frobenius())),
)


def kind_of(name: str) -> str:
    """Return the kind of an operation; what is no operation is `calls`."""
    if "::" not in name or name.startswith("autograd::"):
        return "calls"
    return next((kind for kind, words in KINDS.items() if re.search(words, name)), "calls")


def spent(step: rivals.Step, model: nn.Module, x: Tensor, y: Tensor) -> dict[str, float]:
    """Return the seconds of a step by kind of operation."""
    with profile(activities=[ProfilerActivity.CPU]) as found:
        for _ in range(STEPS):
            model.zero_grad()
            step(model, x, y, LAM)
    seconds = dict.fromkeys([*KINDS, "calls"], 0.0)
    for event in found.key_averages():
        seconds[kind_of(event.key)] += event.self_cpu_time_total / 1e6 / STEPS
    return seconds


def main() -> None:
    """Measure, print a table and write the results."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("words", nargs="*", default=[""], help="of names")
    options = parser.parse_args()
    torch.set_num_threads(1)
    results: dict = {}
    rows = [("", "step", "all", *KINDS, "calls")]
    for name, case in cases(zoo=True):
        if not any(word in name for word in options.words):
            continue
        torch.manual_seed(0)
        model = case.make().eval().to(DEVICE)
        x = torch.rand(case.samples, *case.shape, device=DEVICE)
        y = torch.randint(case.classes, (case.samples,), device=DEVICE)
        verified(dict(CONTENDERS), model, x, y)
        results[name] = {who: spent(step, model, x, y) for who, step in CONTENDERS}
        unit = sum(results[name]["plain"].values())
        for who, seconds in results[name].items():
            cells = [f"{value / unit:.2f}" for value in seconds.values()]
            rows.append((name, who, f"{sum(seconds.values()) / unit:.2f}", *cells))
    print_table("time in plain steps", rows)
    found = {"environment": environment("torchvision", "timm")} | results
    print("written:", write(f"breakdown-{DEVICE}", found))


if __name__ == "__main__":
    main()
