"""Figures in sentences of the pages are those of benchmarks/results."""

import json
import statistics
from collections.abc import Iterator

import pytest

import jacfast
from tests.scripts.loading import ROOT

BENCHMARKS, FIRST = "benchmarks/README.md", "README.md"
NETWORKS = ("tf_cnn", "cifar_cnn", "mlp", "vit")


def read(name: str) -> dict:
    return json.loads((ROOT / "benchmarks" / "results" / f"{name}.json").read_text())


def plain_steps(who: str) -> list[float]:
    """What it takes on each of the networks."""
    files = [read(f"step-{network}-cpu") for network in NETWORKS]
    return [found["contenders"][who]["plain_steps"] for found in files]


def of_the_step() -> Iterator[tuple[str, str]]:
    cnn, cifar, mlp, vit = plain_steps("jacfast, n = 1")
    yield BENCHMARKS, f"missed by the MLP ({mlp:.2f}), whose floor is 2.31"
    part = plain_steps("jacfast, n = 1, subsample 1/4")
    yield BENCHMARKS, f"({part[0]:.2f} and {part[1]:.2f}), missed by the MLP ({part[2]:.2f})"
    exact = plain_steps("jacfast, exact")[3]
    yield BENCHMARKS, f"with {vit:.2f}, {part[3]:.2f} (a quarter"
    yield BENCHMARKS, f"and {exact:.2f} it would miss all three"
    by_hand, reg = (plain_steps(who)[0] for who in ("one vector, autograd", "JacobianReg, n = 1"))
    yield BENCHMARKS, f"took {by_hand:.2f} on the TF-tutorial CNN where JacobianReg took {reg:.2f}"
    yield FIRST, f"`JacobianReg` takes {reg:.2f} on the first row"
    autograd, func = (
        plain_steps(f"compiled, {who}")[3] for who in ("autograd traced", "torch.func")
    )
    yield FIRST, f"takes {autograd:.2f} on the ViT of 4 blocks, where jacfast takes {vit:.2f}"
    traced = plain_steps("jacfast, n = 1, traced")
    yield BENCHMARKS, f"{autograd:.2f} (traced autograd) and {func:.2f} (torch.func) against"
    yield BENCHMARKS, f"against {vit:.2f} eager and {traced[3]:.2f} as recorded graphs"
    gains = cnn - traced[0], vit - traced[3], traced[1] - cifar, traced[2] - mlp
    yield BENCHMARKS, "gain {:.2f} plain steps on the TF-tutorial CNN and {:.2f}".format(*gains[:2])
    yield BENCHMARKS, "lose {:.2f} on the CIFAR CNN and {:.2f} on the MLP".format(*gains[2:])
    two = sorted(gains[:2])
    page = "docs/guides/compiled.md"
    yield (
        page,
        "two gained {:.2f} and {:.2f} plain steps, two lost {:.2f} and {:.2f}".format(
            *two, *sorted(gains[2:])
        ),
    )


def of_deepfool() -> Iterator[tuple[str, str]]:
    memory, ops = read("memory-cpu"), read("ops-cpu")
    beyond = (memory["deepfool_bytes"] - memory["model_bytes"]) / 1e6
    yield BENCHMARKS, f"{beyond:.1f} MB, {memory['beyond_the_model']:.1f} times [N, D]"
    yield "docs/guides/memory.md", f"take {beyond:.1f} MB beyond the model's"
    step, share = "step: eager over fused", "share of the bandwidth of torch.sum of rows"
    yield BENCHMARKS, f"the ratio to eager is {ops['ratios'][step]:.1f}, and misses it"
    share = ops["ratios"][f"deepfool_step: {share}"]
    yield BENCHMARKS, f"the share is {share:.0%}, and misses it, too"
    half, full = (ops["times"][f"row_norm sumsq{of}"]["GB/s"] for of in (", float16", ""))
    assert round(4 * half / full) == 3
    yield BENCHMARKS, "moves half the bytes of float32 at three quarters of its bandwidth"
    points = [point for axis in read("scaling-cpu")["axes"].values() for point in axis]
    over = [of["seconds"]["jacfast"] / of["floor"] for of in points]
    yield BENCHMARKS, f"jacfast is {min(over):.0f} to {max(over):.0f} times above it"
    least, most = (f(points, key=times) for f in (min, max))
    words = "takes {:.1f} times ({} samples) to {:.1f} times ({} classes)"
    sizes = times(least), least["samples"], times(most), most["classes"]
    yield BENCHMARKS, words.format(*sizes)


def times(point: dict) -> float:
    return point["seconds"]["foolbox"] / point["seconds"]["jacfast"]


def of_attention() -> Iterator[tuple[str, str]]:
    found = read("attention-cpu")
    errors = [of["error"] for of in found["attention"]]
    ranges = (f"{f(of[who] for of in errors):.1e}" for who in ("tiles", "MATH") for f in (min, max))
    words = "is {} to {} in tiles, {} to {} by MATH".format(*ranges)
    yield BENCHMARKS, words.replace("e-07", "e-7")
    peaks = found["peak_bytes"]["2048"]
    step, by_math = (peaks[who] / 1e6 for who in ("penalised step", "step by MATH"))
    yield "docs/guides/attention.md", f"takes {step:.0f} MB, where operations take {by_math:,.0f}"
    points = sorted(map(gain, found["attention"]))
    few, (level, *many) = ([p for p in points if (p[0] < 1) == less] for less in (True, False))
    low, high = (f(ratio for _, ratio in few) for f in (min, max))
    yield BENCHMARKS, f"{low:.2f} to {high:.2f} times as fast up to {few[-1][0]:.2f} times 2^19"
    words = f"{level[1]:.2f} at {level[0]:.1f} times, and {min(ratio for _, ratio in many):.2f} "
    yield BENCHMARKS, words + f"and more from {many[0][0]:.1f} times on"
    less, own = peaks["MATH"] / peaks["tiles"], peaks["tiles"] / 1e6
    yield BENCHMARKS, f"it is {less:.0f}: inputs"
    yield BENCHMARKS, f"are most of the {own:.0f}."


def gain(of: dict) -> tuple[float, float]:
    """How many scores, in 2^19, and by how much tiles are faster."""
    samples, heads, tokens = of["shape"]
    return samples * heads * tokens**2 / 2**19, of["seconds"]["MATH"] / of["seconds"]["tiles"]


def of_growth() -> Iterator[tuple[str, str]]:
    found = read("growth-cpu")

    def more(axis: str, value: str) -> float:
        row = {who: of["median"] for who, of in found[axis][value].items()}
        return row["autograd by hand"] / row["Frobenius"] - 1

    yield BENCHMARKS, f"by {more('projections n', '10'):.0%} with ten projections"
    yield BENCHMARKS, f"by {more('samples N', '2048'):.0%} with 2,048 samples"
    few = [("samples N", "128"), *((axis, value) for axis in FEW for value in found[axis])]
    assert all(abs(more(*point)) < 0.08 for point in few)
    row = found["samples N"]["32"]
    over = [row[who]["median"] / row["autograd by hand"]["median"] - 1 for who in OURS]
    yield BENCHMARKS, f"with 32 samples ours take {100 * min(over):.0f} to {max(over):.0%} more"


def of_sizes() -> Iterator[tuple[str, str]]:
    counts = []
    for threads in (1, 2):
        found = read(f"sizes-all-{threads}-cpu")
        rows = [
            of["jacfast"]["of_double_backward"]
            for name, of in found.items()
            if name != "environment"
        ]
        counts += [len(rows), sum(ratio > 1.03 for ratio in rows)]
    total, one, _, two = counts
    words = f"with one thread {one} of {total} rows miss it by more than 3%, with two threads {two}"
    yield BENCHMARKS, words
    slow = [{n for n, of in read(f"sizes-all-{t}-cpu").items() if missed(of)} for t in (1, 2)]
    images = {"tf_tutorial_cnn, N = 16", "seck_a, N = 16"}
    assert slow[1] - slow[0] - {"deep_defense_mlp, N = 64"} == images
    yield BENCHMARKS, "and with two threads the TF-tutorial CNN and seck_a at N = 16"
    times = read("projections-cpu")["times"]
    ways = [of for row in times.values() for of in row.values() if "loop" in of]
    slower = max(of["chosen"] / of["loop"] - 1 for of in ways)
    yield BENCHMARKS, f"of what it takes at once, nothing is more than {slower:.0%} slower"


def missed(of: dict) -> bool:
    return "jacfast" in of and of["jacfast"]["of_double_backward"] > 1.03


FEW, OURS = ("classes K", "hidden layers"), ("Frobenius", "CrossLipschitz")


@pytest.mark.parametrize("figures", [of_the_step, of_deepfool, of_attention, of_growth, of_sizes])
def test_sentences_quote_the_results(figures):
    quoted = list(figures())
    assert quoted
    for page, words in quoted:
        assert words in (ROOT / page).read_text(), page


def test_the_runs_are_those_that_the_summary_names():
    text = (ROOT / BENCHMARKS).read_text()
    (line,) = (line for line in text.splitlines() if line.startswith("On an AMD EPYC, two threads"))
    rest, *others = line.split(", but for: ")[0], *line.split(", but for: ")[1].split("; ")
    files = [
        [f"step-{network}-cpu" for network in NETWORKS] + ["memory-cpu", "ops-cpu"],
        ["sizes-all-1-cpu"],
        ["sizes-zoo-1-cpu"],
        ["robustness-tf_cnn-cpu", "robustness-mlp-cpu"],
        ["deepfool-mnist-art-cpu", "deepfool-mnist-torchattacks-cpu"],
    ]
    files[0] += ["deepfool-mnist-foolbox-cpu", "deepfool-classes-foolbox-cpu"]
    for words, names in zip((rest, *others), files, strict=True):
        for of in (read(name)["environment"] for name in names):
            assert of["processor"] == "AMD EPYC"
            assert of["commit"].removesuffix("-dirty") in words
            assert ("one thread" in words) == (of["threads"] == "1")
            assert of["torch"].split("+")[0] == ("2.14.1" if "2.14.1" in words else "2.13.0")


def test_what_is_said_of_smooth_activations_on_cifar_10():
    page, runs = (ROOT / BENCHMARKS).read_text(), read("claims-smooth-cifar")["runs"]

    def of(choice: str, which: str, key: str) -> list[float]:
        return [r[key] for r in runs if (r["choice"], r["which"]) == (choice, which)]

    def apart(choice: str, other: str, which: str, key: str) -> float:
        return statistics.mean(of(choice, which, key)) - statistics.mean(of(other, which, key))

    assert f"all else alike, {len(of('plain', 'ReLU', 'seed'))} seeds" in page
    attacked, loss, harder, weak = (
        *("PGD training", "input gradient, 1 eps"),
        *("Jacobian, 0.1", "Jacobian, 0.01"),
    )
    far = max(abs(apart(loss, attacked, "GELU", key)) for key in ("clean", "robust"))
    assert f"is within {far:.1f} points of PGD training, in both accuracies" in page
    seconds = [min(of(choice, "GELU", "training")) for choice in (loss, attacked)]
    assert "for a third of its time" in page
    assert 0.3 < seconds[0] / seconds[1] < 0.36
    more, less = (apart(harder, attacked, "GELU", key) for key in ("robust", "clean"))
    assert f"is {more:.1f} points above in robust accuracy and {-less:.1f} below in clean" in page
    silu = [
        " and ".join(f"{statistics.mean(of(way, 'SiLU', key)):.1f}" for key in ("clean", "robust"))
        for way in (attacked, loss, harder)
    ]
    words = f"SiLU: PGD training {silu[0]}, input gradient {silu[1]}, Jacobian {silu[2]}."
    assert words in page
    ways = (loss, "input gradient, 2 eps", harder)
    lost = [
        [apart("plain", way, which, "clean") for way in (attacked, *ways)]
        for which in ("ReLU", "GELU")
    ]
    few, most, least, much = (f"{end(each):.1f}" for each in lost for end in (min, max))
    assert f"lose {few} to {most} points of accuracy where GELU loses {least} to {much}." in page
    behind = -min(apart(way, attacked, "ReLU", "robust") for way in ways)
    assert f"come within {behind:.1f} points of PGD training's robustness" in page
    costs = [apart("plain", weak, which, "clean") for which in ("ReLU", "GELU")]
    words = f"is {-apart(weak, attacked, 'ReLU', 'robust'):.1f} points less robust than PGD "
    assert f"{words}training and loses {costs[0]:.1f} (GELU {max(costs[1], 0):.1f})" in page
    best = max(statistics.mean(of("plain", which, "clean")) for which in ("ReLU", "GELU", "SiLU"))
    assert f"allows ({best:.0f}% after 4 epochs)" in page


def test_how_much_longer_a_projection_in_another_norm_takes():
    times = {
        p: read("ops-cpu")["times"][f"halfspace_projection, p = {p}"] for p in ("2", "1", "inf")
    }
    ratios = [round(times[p]["median"] / times["2"]["median"]) for p in ("inf", "1")]
    assert ratios == [5, 9]
    words = " ".join(jacfast.minimal_norm.__doc__.split())
    assert "the projection takes some five to nine times as long" in words


def test_by_how_many_images_art_was_timed():
    once = read("deepfool-mnist-art-cpu")["at once"]
    assert f"ART 1.20.1, {once} images at a time / jacfast" in (ROOT / BENCHMARKS).read_text()
    assert f"here it has `batch_size={once}`" in (ROOT / BENCHMARKS).read_text()
    assert f"against ART, {once} images at a time" in (ROOT / "README.md").read_text()
