"""What are the choices of DeepFool's search worth: skipped candidates, passes, rows at once?

python -m benchmarks.search
"""

import contextlib
from collections.abc import Iterator

import torch

import jacfast.attacks.loop
import jacfast.attacks.search
import jacfast.vjp
from benchmarks.deepfool import Case, classes, mnist
from benchmarks.harness import environment, print_table, take_turns, write
from jacfast import deepfool
from jacfast.attacks import PRESETS
from jacfast.lean import lean
from jacfast.vjp import pull_back

REPEATS = 3


@contextlib.contextmanager
def having(module: object, name: str, value: object) -> Iterator[None]:
    """Give a module's constant another value for a while."""
    before = getattr(module, name)
    setattr(module, name, value)
    try:
        yield
    finally:
        setattr(module, name, before)


def skipping(case: Case, options: dict) -> dict:
    """Time the attack with and without skipped candidates, which must give the same result."""

    def run(worth: float):
        with having(jacfast.attacks.search, "WORTH", worth):
            return deepfool(case.model, case.x, case.y, **options)

    usual = jacfast.attacks.search.WORTH
    found, full = run(usual), run(float("inf"))
    same = torch.equal(found.label, full.label) and torch.equal(found.iterations, full.iterations)
    if not same:
        raise RuntimeError("a skipped candidate must change nothing")
    times = take_turns({"skip": lambda: run(usual), "all": lambda: run(float("inf"))}, REPEATS)
    costs = {name: float(r.vjps.double().mean()) for name, r in (("skip", found), ("all", full))}
    return {"vjps": costs, "times": times}


def passes(case: Case, sizes: tuple[int, ...]) -> dict:
    """Time the attack with other numbers of samples per pass through the model."""

    def run(size: int):
        loop = jacfast.attacks.loop
        with having(loop, "AT_ONCE", size), having(loop, "BYTES", 1 << 40):
            return deepfool(case.model, case.x, case.y, **PRESETS["foolbox"])

    times = take_turns({str(size): lambda size=size: run(size) for size in sizes}, REPEATS)
    return {"times": times}


def rows_at_once(case: Case, samples: int, counts: tuple[int, ...]) -> dict:
    """Time nine rows of each sample, so many of them in one batched backward pass."""
    x = case.x[:samples].clone().requires_grad_()
    with lean(case.model):
        logits = case.model.requires_grad_(False)(x)
    vectors = torch.randn(9, *logits.shape)

    def run(count: int) -> None:
        with having(jacfast.vjp, "at_a_time", lambda count, *_: count):
            for part in vectors.split(count):
                pull_back(logits, x, part, create_graph=False)

    return take_turns({str(count): lambda count=count: run(count) for count in counts}, 5)


def main() -> None:
    """Time the choices, print tables and write the results."""
    results: dict = {"environment": environment()}
    cases = {"mnist": mnist(None), "classes": classes(None)}
    table = [("", "vjps, all", "skipping", "seconds, all", "skipping")]
    for name, case in cases.items():
        for box, options in (("box", PRESETS["foolbox"]), ("no box", {})):
            chosen = options if name == "mnist" else {**options, "candidates": None}
            row = results[f"{name}, {box}"] = skipping(case, chosen)
            cells = [f"{row['vjps'][key]:.1f}" for key in ("all", "skip")]
            cells += [f"{row['times'][key]['median']:.2f}" for key in ("all", "skip")]
            table.append((f"{name}, {box}", *cells))
    print_table("candidates that cannot be the nearest", table)

    sizes = (32, 64, 128, 256, 512, 1000)
    times = results["passes"] = passes(cases["mnist"], sizes)["times"]
    table = [("samples per pass", *map(str, sizes))]
    table.append(("seconds", *(f"{times[str(size)]['median']:.2f}" for size in sizes)))
    print_table(f"{cases['mnist'].title}, box", table)

    counts = (1, 3, 9)
    table = [("samples", *(f"{count} at once" for count in counts))]
    for samples in (1, 4, 8, 16, 32, 64, 128):
        times = results[f"rows, {samples}"] = rows_at_once(cases["mnist"], samples, counts)
        each = [1e3 * times[str(count)]["median"] / samples / 9 for count in counts]
        table.append((str(samples), *(f"{one:.3f}" for one in each)))
    print_table("milliseconds per gradient row", table)
    print("written:", write("search-cpu", results))


if __name__ == "__main__":
    main()
