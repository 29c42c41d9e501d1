"""Is a penalised step ever slower than plain double backward? From one sample to many, old and new.

python -m benchmarks.sizes [WORD ...] [--threads N] [--zoo] [--compiled]

A full step with one projection of each sample: cross-entropy, penalty, backward. The networks of
`jacfast.models` at 16, 64 and 256 samples, small and modern ones at theirs; with --zoo ten of
torchvision and timm, in eval mode, where these are installed. --compiled: recorded steps and
compiled rivals as well, with the time that they take to be made.
"""

import argparse
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import jacfast
from benchmarks.harness import environment, must_agree, print_table, take_turns, write
from benchmarks.networks import ViT, embedding_cnn, relu_cnn_1d, residual_blocks
from benchmarks.step import DEVICE, LAM, gradient
from jacfast import models
from jacfast.timing import rivals
from jacfast.timing.ours import ours

ROUNDS = {"quick": 15, "slow": 5}  # a step of less than a tenth of a second, or more
SECONDS = 0.02  # of steps in a row, at least
PAPERS = (
    *("tf_tutorial_cnn", "cifar_cnn", "yu_cifar_cnn", "fc500", "deep_defense_mlp"),
    *("seck_a", "seck_b", "seck_c"),
)
ZOO = {  # name: size of the images, samples
    "torchvision:resnet18": (64, 8),
    "torchvision:mobilenet_v3_small": (64, 8),
    "torchvision:efficientnet_b0": (64, 8),
    "torchvision:densenet121": (64, 8),
    "torchvision:regnet_x_400mf": (64, 8),
    "torchvision:swin_t": (64, 2),
    "timm:convnext_atto": (64, 8),
    "timm:vit_tiny_patch16_224": (224, 2),
    "timm:deit_tiny_patch16_224": (224, 2),
    "timm:mixer_s32_224": (224, 4),
}


class Case(NamedTuple):
    """A network, the shape of a sample, how many there are, and how many classes."""

    make: Callable[[], nn.Module]
    shape: tuple[int, ...]
    samples: int
    classes: int = 10


def cases(zoo: bool) -> Iterator[tuple[str, Case]]:
    """Yield what is timed, by name."""
    if zoo:
        yield from ((name, _of_zoo(name, *sizes)) for name, sizes in ZOO.items())
        return
    yield "mlp 8-16-16-4, N = 1", Case(lambda: models.mlp(8, 16, 16, 4), (8,), 1, 4)
    yield "mlp 784-200-200-10, N = 64", Case(lambda: models.mlp(784, 200, 200, 10), (784,), 64)
    yield "5 conv1d, GELU, N = 256", Case(embedding_cnn, (20, 10), 256, 8)
    yield "3 conv1d, ReLU, N = 256", Case(relu_cnn_1d, (20, 16), 256)
    yield "96 residual blocks, N = 16", Case(residual_blocks, (32,), 16)
    yield "ViT, 2 blocks, N = 32", Case(lambda: ViT(depth=2), (3, 32, 32), 32)
    for name in PAPERS:
        for samples in (16, 64, 256):
            shape = (3, 32, 32) if "cifar" in name else (1, 28, 28)
            yield f"{name}, N = {samples}", Case(getattr(models, name), shape, samples)


class Clamp(nn.Module):
    """Hard-sigmoid, of operations that every contender can differentiate twice."""

    def forward(self, x: Tensor) -> Tensor:
        """Return relu6(x + 3) / 6."""
        return F.relu6(x + 3) / 6


def _of_zoo(name: str, size: int, samples: int) -> Case:
    def make() -> nn.Module:
        package, _, architecture = name.partition(":")
        if package == "torchvision":
            import torchvision

            model = torchvision.models.get_model(architecture, num_classes=10)
        else:
            import timm

            model = timm.create_model(architecture, num_classes=10)
        for module in list(model.modules()):
            for attribute, layer in module.named_children():
                if isinstance(layer, nn.Hardsigmoid):  # of which PyTorch has no second derivative
                    setattr(module, attribute, Clamp())
        return model

    return Case(make, (3, size, size), samples)


def contenders(compiled: bool, classes: int) -> dict[str, rivals.Step]:
    steps = {
        "plain": rivals.plain,
        "double backward": rivals.by_math(rivals.one_vector),
        "jacfast": ours(jacfast.Frobenius()),
        "subsample 1/4": ours(jacfast.Frobenius(subsample=0.25)),
    }
    if compiled:
        steps["torch.func, compiled"] = rivals.by_math(rivals.compiled_func(classes))
        for backend in ("traced", "inductor"):
            steps[f"jacfast, {backend}"] = ours(jacfast.Frobenius(), compiled=backend)
    return steps


def measure(case: Case, compiled: bool) -> dict:
    """Verify and time the contenders on one network."""
    torch.manual_seed(0)
    model = case.make().eval().to(DEVICE)
    x = torch.rand(case.samples, *case.shape, device=DEVICE)
    y = torch.randint(case.classes, (case.samples,), device=DEVICE)
    steps = contenders(compiled, case.classes)
    made = verified(steps, model, x, y)

    def run(step: rivals.Step, times: int) -> None:
        for _ in range(times):
            model.zero_grad()
            step(model, x, y, LAM)

    start = time.perf_counter()
    run(steps["double backward"], 1)
    once = time.perf_counter() - start
    count, rounds = max(1, round(SECONDS / once)), ROUNDS["quick" if once < 0.1 else "slow"]
    runs = {name: lambda step=step: run(step, count) for name, step in steps.items()}
    spent = take_turns(runs, rounds)
    base = spent["double backward"]["median"]
    return {
        name: {stat: value / count for stat, value in row.items()}
        | {"of_double_backward": row["median"] / base, "seconds_to_make": made[name]}
        | {"plain_steps": row["median"] / spent["plain"]["median"]}
        for name, row in spent.items()
    }


def verified(
    steps: dict[str, rivals.Step], model: nn.Module, x: Tensor, y: Tensor
) -> dict[str, float]:
    """Raise unless all with the same draw agree; return how long the first call of each took."""
    made, want = {}, gradient(steps["double backward"], model, x, y)
    for name, step in steps.items():
        start = time.perf_counter()
        found = gradient(step, model, x, y)
        made[name] = time.perf_counter() - start
        if name not in ("plain", "subsample 1/4"):
            must_agree(name, found, "double backward", want, 2e-3)
    return made


def main() -> None:
    """Measure, print a table and write the results."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("words", nargs="*", default=[""], help="of names")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--zoo", action="store_true")
    parser.add_argument("--compiled", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    results: dict = {}
    for name, case in cases(options.zoo):
        if any(word in name for word in options.words):
            results[name] = measure(case, options.compiled)
            row = results[name]
            cells = [f"{key} {one['plain_steps']:.2f}" for key, one in row.items()]
            print(f"{name}: {row['jacfast']['of_double_backward']:.2f};", ", ".join(cells))
    rows = [("", "double backward, ms", "jacfast", "of double backward")]
    for name, row in results.items():
        both = [f"{1e3 * row[key]['median']:.2f}" for key in ("double backward", "jacfast")]
        rows.append((name, *both, f"{row['jacfast']['of_double_backward']:.2f}"))
    print_table("a step with one projection", rows)
    kind = "zoo" if options.zoo else "compiled" if options.compiled else "all"
    file = f"sizes-{kind}-{options.threads}-{DEVICE}"
    print("written:", write(file, {"environment": environment("torchvision", "timm")} | results))


if __name__ == "__main__":
    main()
