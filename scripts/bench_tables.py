"""Tables of benchmarks/README.md, made of benchmarks/results: `python scripts/bench_tables.py`.

Each stands between `<!-- NAME -->` and `<!-- end -->`; a test holds it against the files.
"""

import functools
import json
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "benchmarks" / "README.md"
STEPS = ("double backward", "jacfast", "subsample 1/4")
RECORDED = ("double backward", "torch.func, compiled", "jacfast", "jacfast, traced")


def read(name: str) -> dict:
    """Return the networks of a file of results."""
    found = json.loads((ROOT / "benchmarks" / "results" / f"{name}.json").read_text())
    del found["environment"]
    return found


def sizes() -> Iterator[list[str]]:
    two = read("sizes-all-2-cpu")
    yield [
        *("", "double backward, ms", "jacfast, ms", "of double backward", "the same, 2 threads"),
        "plain steps: double backward; jacfast; a quarter",
    ]
    for name, found in read("sizes-all-1-cpu").items():
        yield [*_step(name, found), _share(two[name]), _plain_steps(found)]


def zoo() -> Iterator[list[str]]:
    yield [
        *("eval mode", "double backward, ms", "jacfast, ms", "of double backward"),
        "plain steps: double backward; jacfast; a quarter",
    ]
    for name, found in read("sizes-zoo-1-cpu").items():
        yield [*_step(name, found), _plain_steps(found)]


def step(name: str) -> Iterator[list[str]]:
    """Yield the ways to take a step of one network."""
    yield ["", "ms", "plain steps", "with Adam", "peak MB"]
    for who, found in read(f"step-{name}-cpu")["contenders"].items():
        if "plain_steps" not in found:  # the optimiser's own step
            continue
        steps = [f"{found[key]:.2f}" for key in ("plain_steps", "plain_steps_with_adam")]
        memory = f"{found['peak_bytes'] / 1e6:.0f}"
        yield [who, f"{1e3 * found['median']:.1f}", *steps, memory]


def recorded() -> Iterator[list[str]]:
    yield [
        *("in plain steps", "double backward", "torch.func, compiled", "jacfast", "traced"),
        *("Inductor", "seconds to make: traced; Inductor; torch.func"),
    ]
    made = ("jacfast, traced", "jacfast, inductor", "torch.func, compiled")
    for name, found in read("sizes-compiled-1-cpu").items():
        steps = [found[who]["plain_steps"] for who in (*RECORDED, "jacfast, inductor")]
        seconds = [f"{found[who]['seconds_to_make']:.1f}" for who in made]
        yield [name, *(f"{step:.2f}" for step in steps), "; ".join(seconds)]


def small() -> Iterator[list[str]]:
    yield ["", "double backward, ms", "by the node", "by plain double backward", "takes"]
    for name, found in read("small-cpu").items():
        shares = [f"{found['of_double_backward'][way]:.2f}" for way in ("node", "plain")]
        yield [name, f"{found['ms']['double backward']:.2f}", *shares, found["takes"]]


def breakdown() -> Iterator[list[str]]:
    networks = read("breakdown-cpu")
    yield ["in plain steps", "step", "all", *next(iter(networks.values()))["plain"]]
    for name, steps in networks.items():
        unit = sum(steps["plain"].values())
        for who, seconds in steps.items():
            shares = [sum(seconds.values()), *seconds.values()]
            yield [name if who == "plain" else "", who, *(f"{s / unit:.2f}" for s in shares)]


def lengths(name: str) -> Iterator[list[str]]:
    """Yield how near the attacks come to the shortest perturbation, and for how many passes."""
    networks = read(name)["cases"]
    yield ["optimality (95%)", "passes", "processor ms", *networks]
    for attack in next(iter(networks.values()))["attacks"]:
        found = [network["attacks"][attack] for network in networks.values()]
        passes = _from_to([one["passes"] for one in found], ",.0f")
        seconds = _from_to([1e3 * one["processor seconds"] for one in found], ",.3g")
        yield [attack, passes, seconds, *map(_optimality, found)]


def _from_to(values: list[float], form: str) -> str:
    return " to ".join(dict.fromkeys(format(value, form) for value in (min(values), max(values))))


def _optimality(found: dict) -> str:
    low, high = found["interval of 95%"]
    failed = f", {found['failed']} failed" if found["failed"] else ""
    return f"{found['optimality']:.3f} ({low:.3f} to {high:.3f}){failed}"


TABLES = {
    "lengths": functools.partial(lengths, "minimal_norm"),
    "lengths, 1-norm": functools.partial(lengths, "minimal_norm-1"),
    "lengths, CIFAR-10": functools.partial(lengths, "minimal_norm-networks"),
    "step, MLP": functools.partial(step, "mlp"),
    "step, TF-tutorial CNN": functools.partial(step, "tf_cnn"),
    "step, CIFAR CNN": functools.partial(step, "cifar_cnn"),
    "step, ViT": functools.partial(step, "vit"),
    "sizes": sizes,
    "zoo": zoo,
    "recorded": recorded,
    "small": small,
    "breakdown": breakdown,
}


def _step(name: str, found: dict) -> list[str]:
    times = [f"{1e3 * found[who]['median']:.2f}" for who in STEPS[:2]]
    return [name, *times, _share(found)]


def _share(found: dict) -> str:
    return f"{found['jacfast']['of_double_backward']:.2f}"


def _plain_steps(found: dict) -> str:
    return "; ".join(f"{found[who]['plain_steps']:.2f}" for who in STEPS)


def table(name: str) -> str:
    """Return the table of that name."""
    head, *rows = ("| " + " | ".join(cells) + " |" for cells in TABLES[name]())
    bars = "|---" * (head.count("|") - 1) + "|"
    return "\n".join([head.replace("|  |", "| |"), bars, *rows]).replace("|  |", "| |") + "\n"


def with_tables(text: str) -> str:
    """Return the page with the tables of today's results."""
    for name in TABLES:
        begin, end = f"<!-- {name} -->\n", "<!-- end -->"
        text = re.sub(f"(?s){begin}.*?{end}", f"{begin}{table(name)}{end}", text)
    return text


if __name__ == "__main__":
    PAGE.write_text(with_tables(PAGE.read_text()))
