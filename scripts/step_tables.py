"""Tables of training steps, for `bench_tables.py`: rows of cells, made of files of results."""

import functools
from collections.abc import Iterator

STEPS = ("double backward", "jacfast", "subsample 1/4")
RECORDED = ("double backward", "torch.func, compiled", "jacfast", "jacfast, traced")


def sizes(found: dict, two_threads: dict) -> Iterator[list[str]]:
    yield [
        *("", "double backward, ms", "jacfast, ms", "of double backward", "the same, 2 threads"),
        "plain steps: double backward; jacfast; a quarter",
    ]
    for name, of in found.items():
        yield [*_step(name, of), _share(two_threads[name]), _plain_steps(of)]


def zoo(found: dict) -> Iterator[list[str]]:
    yield [
        *("eval mode", "double backward, ms", "jacfast, ms", "of double backward"),
        "plain steps: double backward; jacfast; a quarter",
    ]
    for name, of in found.items():
        yield [*_step(name, of), _plain_steps(of)]


def step(found: dict) -> Iterator[list[str]]:
    """Yield the ways to take a step of one network."""
    yield ["", "ms", "plain steps", "with Adam", "peak MB"]
    for who, of in found["contenders"].items():
        if "plain_steps" not in of:  # the optimiser's own step
            continue
        steps = [f"{of[key]:.2f}" for key in ("plain_steps", "plain_steps_with_adam")]
        yield [who, _ms(of), *steps, f"{of['peak_bytes'] / 1e6:.0f}"]


def recorded(found: dict) -> Iterator[list[str]]:
    yield [
        *("in plain steps", "double backward", "torch.func, compiled", "jacfast", "traced"),
        *("Inductor", "seconds to make: traced; Inductor; torch.func"),
    ]
    made = ("jacfast, traced", "jacfast, inductor", "torch.func, compiled")
    for name, of in found.items():
        steps = [of[who]["plain_steps"] for who in (*RECORDED, "jacfast, inductor")]
        seconds = [f"{of[who]['seconds_to_make']:.1f}" for who in made]
        yield [name, *(f"{step:.2f}" for step in steps), "; ".join(seconds)]


def small(found: dict) -> Iterator[list[str]]:
    yield ["", "double backward, ms", "by the node", "by plain double backward", "takes"]
    for name, of in found.items():
        shares = [f"{of['of_double_backward'][way]:.2f}" for way in ("node", "plain")]
        yield [name, f"{of['ms']['double backward']:.2f}", *shares, of["takes"]]


def breakdown(found: dict) -> Iterator[list[str]]:
    yield ["in plain steps", "step", "all", *next(iter(found.values()))["plain"]]
    for name, steps in found.items():
        unit = sum(steps["plain"].values())
        for who, seconds in steps.items():
            shares = [sum(seconds.values()), *seconds.values()]
            yield [name if who == "plain" else "", who, *(f"{s / unit:.2f}" for s in shares)]


def growth(axis: str, found: dict) -> Iterator[list[str]]:
    """Yield the time of a step against one axis."""
    points = found[axis].values()
    yield [axis, *found[axis]]
    for who in next(iter(points)):
        yield [f"{who}, ms", *(_ms(point[who]) if who in point else "" for point in points)]


def projections(found: dict) -> Iterator[list[str]]:
    rows = found["times"]
    yield ["", "", *(f"N = {samples}" for samples in next(iter(rows.values())))]
    for name, row in rows.items():
        cells = (
            f"{of['loop'] / of['chosen']:.2f}" if "loop" in of else "loop" for of in row.values()
        )
        yield [*name.split(", ", 1), *cells]


def attention(found: dict) -> Iterator[list[str]]:
    yield ["[N, H, L, 64]", "MATH, ms", "tiles, ms", "times as fast"]
    for of in found["attention"]:
        by_math, tiles = of["seconds"]["MATH"], of["seconds"]["tiles"]
        times = [f"{1e3 * seconds:,.1f}" for seconds in (by_math, tiles)]
        yield [", ".join(map(str, of["shape"])), *times, f"{by_math / tiles:.2f}"]


def attention_memory(found: dict) -> Iterator[list[str]]:
    yield ["tokens", "attention: MATH", "tiles", "step: MATH, double backward", "penalised step"]
    for tokens, of in found["peak_bytes"].items():
        peaks = [of[who] for who in ("MATH", "tiles", "step by MATH", "penalised step")]
        yield [f"{int(tokens):,}", *(f"{peak / 1e6:,.0f}" for peak in peaks)]


def _step(name: str, of: dict) -> list[str]:
    times = [f"{1e3 * of[who]['median']:.2f}" for who in STEPS[:2]]
    return [name, *times, _share(of)]


def _share(of: dict) -> str:
    return f"{of['jacfast']['of_double_backward']:.2f}"


def _plain_steps(of: dict) -> str:
    return "; ".join(f"{of[who]['plain_steps']:.2f}" for who in STEPS)


def _ms(of: dict) -> str:
    return f"{1e3 * of['median']:.1f}"


AXES = ("projections n", "classes K", "samples N", "hidden layers")


def derivatives(found: dict) -> Iterator[list[str]]:
    """Yield first and second derivatives of each function, in ms, beside PyTorch's."""
    yield ["", "first", "PyTorch", "second", "PyTorch", "PyTorch over jacfast, second"]
    times = {name: 1e3 * of["median"] for name, of in found["times"].items()}
    for name in (key.removesuffix(", first") for key in times if key.endswith(", first")):
        keys = [f"{name}, {order}{of}" for order in ("first", "second") for of in ("", ", PyTorch")]
        values = [times[key] for key in keys]
        yield [name, *(f"{ms:.2f}" for ms in values), f"{values[3] / values[2]:.1f}"]


TABLES: dict[str, tuple] = {  # of each name its rows, and the files that they are made of
    "step, MLP": (step, "step-mlp-cpu"),
    "step, TF-tutorial CNN": (step, "step-tf_cnn-cpu"),
    "step, CIFAR CNN": (step, "step-cifar_cnn-cpu"),
    "step, ViT": (step, "step-vit-cpu"),
    "sizes": (sizes, "sizes-all-1-cpu", "sizes-all-2-cpu"),
    "zoo": (zoo, "sizes-zoo-1-cpu"),
    "recorded": (recorded, "sizes-compiled-1-cpu"),
    "small": (small, "small-cpu"),
    "breakdown": (breakdown, "breakdown-cpu"),
    **{f"growth, {axis}": (functools.partial(growth, axis), "growth-cpu") for axis in AXES},
    "projections": (projections, "projections-cpu"),
    "activations": (derivatives, "activations-cpu"),
    "norms": (derivatives, "norms-cpu"),
    "attention": (attention, "attention-cpu"),
    "attention, memory": (attention_memory, "attention-cpu"),
}
