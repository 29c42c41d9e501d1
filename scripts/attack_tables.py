"""Tables of attacks and ops, for `bench_tables.py`: rows of cells, made of files of results."""

import re
import statistics
from collections.abc import Iterator

TOOLBOXES = {"adversarial-robustness-toolbox": "ART"}  # by the name of the package, if another
OF_SUM, OF_COPY = (f": share of the bandwidth of {what} of rows" for what in ("torch.sum", "copy"))
BOUNDS = {"Corollary 2": "nearest linearised boundary", "Proposition 3": "‖J‖_F alone"}


def ops(found: dict) -> Iterator[list[str]]:
    yield ["", "ms", "share of `torch.sum`'s bandwidth", "of a copy's", "times as fast as eager"]
    times, shares = found["times"], found["ratios"]
    for op in (key.removesuffix(OF_SUM) for key in shares if key.endswith(OF_SUM)):
        own, eager = times[op]["median"], times.get(f"{op}, eager")
        cells = [f"{1e3 * own:.2f}", *(f"{shares[op + of]:.0%}" for of in (OF_SUM, OF_COPY))]
        gain = f"{eager['median'] / own:.1f}" if eager else ""
        yield [re.sub(r"^\w+", r"`\g<0>`", op), *cells, gain]


def deepfool(*files: dict) -> Iterator[list[str]]:
    """Yield each toolbox's DeepFool, and ours with its choices and without a box."""
    yield ["", "images", "seconds", "mean ‖r‖", "fooled", "products a sample", "times as fast"]
    for found in files:
        package = next(iter(found["rows"]))
        name = TOOLBOXES.get(package, package)
        labels = name, f"jacfast, the choices of {name}", "jacfast, no box"
        for label, of in zip(labels, found["rows"].values(), strict=True):
            cells = [
                f"{of['seconds']['median']:.2f}",
                f"{of['mean_norm']:.4f}",
                f"{of['fooled']:.1%}",
            ]
            cells += [f"{of['vjps']:.1f}", f"{of['ratio']:.1f}"] if "ratio" in of else ["", ""]
            yield [label, f"{found['images']:,}", *cells]


def skipping(found: dict) -> Iterator[list[str]]:
    yield ["", "products a sample, all", "skipping", "seconds, all", "skipping"]
    for case in ("mnist, box", "mnist, no box", "classes, box", "classes, no box"):
        products, times = found[case]["vjps"], found[case]["times"]
        cells = [f"{products[way]:.1f}" for way in ("all", "skip")]
        cells += [f"{times[way]['median']:.2f}" for way in ("all", "skip")]
        yield [case.replace("mnist", "digits").replace("classes", "100 classes"), *cells]


def passes(found: dict) -> Iterator[list[str]]:
    yield ["samples a pass", *found["passes"]]
    yield ["seconds", *(f"{of['median']:.2f}" for of in found["passes"].values())]


def rows(found: dict) -> Iterator[list[str]]:
    """Yield milliseconds a row, where nine rows of each sample are computed."""
    yield ["samples", *(f"{count} at once" for count in found["rows, 1"])]
    for name in (name for name in found if name.startswith("rows, ")):
        samples = name.removeprefix("rows, ")
        each = [1e3 * of["median"] / (9 * int(samples)) for of in found[name].values()]
        yield [samples, *(f"{ms:.3f}" for ms in each)]


def bounds(found: dict) -> Iterator[list[str]]:
    yield ["‖r‖ / bound", "5%", "median", "95%", "‖r‖ below the bound"]
    for key, network in (("tf_tutorial_cnn", "TF-tutorial CNN"), ("seck_c", "seck_c")):
        for bound, words in BOUNDS.items():
            of = found[key][bound]
            cells = [*(f"{value:.2f}" for value in of["quantiles"]), f"{of['exceeded']:.1%}"]
            yield [f"{network}, {bound} ({words})", *cells]


def sharing(found: dict) -> Iterator[list[str]]:
    yield ["", "1 process, s", "2 processes, s", "ratio"]
    for job, of in found["jobs"].items():
        yield [job, *(f"{of[key]:.2f}" for key in ("one_s", "two_s", "ratio"))]


def lengths(found: dict) -> Iterator[list[str]]:
    """Yield how near the attacks come to the shortest perturbation, and for how many passes."""
    networks = found["cases"]
    yield ["optimality (95%)", "passes", "processor ms", *networks]
    for attack in max((network["attacks"] for network in networks.values()), key=len):
        of = [network["attacks"].get(attack) for network in networks.values()]
        costs = _from_to([one["passes"] for one in of if one], ",.0f")
        seconds = _from_to([1e3 * one["processor seconds"] for one in of if one], ",.3g")
        yield [attack, costs, seconds, *(_optimality(one) if one else "not run" for one in of)]


def attackbench(found: dict) -> Iterator[list[str]]:
    """Yield what AttackBench's runner found: optimality, and the passes that it counted."""
    cases = found["cases"]
    yield ["optimality; passes", *cases]
    for attack in max(cases.values(), key=len):
        of = [case.get(attack) for case in cases.values()]
        yield [attack, *(_found(one) if one else "" for one in of)]


def _found(of: dict) -> str:
    failed = f", {of['failed']} failed" if of["failed"] else ""
    return f"{of['optimality']:.3f}{failed}; {of['forwards'] + of['backwards']:,.0f}"


def _from_to(values: list[float], form: str) -> str:
    return " to ".join(dict.fromkeys(format(value, form) for value in (min(values), max(values))))


def _optimality(of: dict) -> str:
    low, high = (round(end, 3) + 0.0 for end in of["interval of 95%"])  # no -0
    failed = f", {of['failed']} failed" if of["failed"] else ""
    return f"{of['optimality']:.3f} ({low:.3f} to {high:.3f}){failed}"


CHOICES = {
    "input gradient, 1 eps": "input gradient, 1-norm, weight eps",
    "input gradient, 2 eps": "input gradient, 1-norm, weight 2 eps",
    "Jacobian, 0.01": "Jacobian, n = 1, 0.01",
    "Jacobian, 0.1": "Jacobian, n = 1, 0.1",
}


def smooth(found: dict) -> Iterator[list[str]]:
    """Yield ReLU and GELU: means and deviations over the seeds, and the fastest one's seconds."""
    heads = {"clean": "clean, %", "robust": "robust, %", "training": "seconds"}
    yield ["", *(cell for head in heads.values() for cell in (f"{head}: ReLU", "GELU"))]
    for choice in dict.fromkeys(run["choice"] for run in found["runs"]):
        cells = [CHOICES.get(choice, choice)]
        for key in heads:
            for which in ("ReLU", "GELU"):
                kind = (choice, which)
                of = [r[key] for r in found["runs"] if (r["choice"], r["which"]) == kind]
                spread = f" ± {statistics.stdev(of):.1f}" if len(of) > 1 else ""
                seconds = key == "training"  # other work only adds to these
                cells.append(f"{min(of):.1f}" if seconds else f"{statistics.mean(of):.1f}{spread}")
        yield cells


PEERS = ("foolbox", "torchattacks", "art")
TABLES: dict[str, tuple] = {  # of each name its rows, and the files that they are made of
    "ops": (ops, "ops-cpu"),
    "deepfool": (deepfool, *(f"deepfool-mnist-{peer}-cpu" for peer in PEERS)),
    "deepfool, classes": (deepfool, "deepfool-classes-foolbox-cpu"),
    "skipping": (skipping, "search-cpu"),
    "passes": (passes, "search-cpu"),
    "rows": (rows, "search-cpu"),
    "bounds": (bounds, "bounds-cpu"),
    "sharing": (sharing, "sharing"),
    "lengths": (lengths, "minimal_norm"),
    "lengths, 1-norm": (lengths, "minimal_norm-1"),
    "lengths, CIFAR-10": (lengths, "minimal_norm-networks"),
    "attackbench": (attackbench, "attackbench"),
    "smooth": (smooth, "claims-smooth"),
    "smooth, CIFAR-10": (smooth, "claims-smooth-cifar"),
}
