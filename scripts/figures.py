"""Tables made of benchmarks/results, the README's and docs/scale.md's: `python scripts/figures.py`.

Each row compares like with like: one projection against one vector by autograd, exact against
exact, measured in one run; a test holds the README against the files.
"""

import json
import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
README, SCALE = ROOT / "README.md", ROOT / "docs" / "scale.md"
RESULTS = ROOT / "benchmarks" / "results"
BEGIN, END = "<!-- steps -->\n", "<!-- end -->"
HEAD = (
    "| | n = 1: one vector by autograd | n = 1: jacfast | exact: loop over the classes "
    "| exact: jacfast |\n|---|---|---|---|---|\n"
)
ALONE = {  # a file each, with the exact penalties
    "step-tf_cnn-cpu.json": "TF-tutorial CNN",
    "step-cifar_cnn-cpu.json": "CIFAR CNN",
    "step-mlp-cpu.json": "MLP 784-512-256-128-10",
    "step-vit-cpu.json": "ViT of 4 blocks",
}
SIZES, ZOO = "sizes-all-1-cpu.json", "sizes-zoo-1-cpu.json"
TOGETHER = {  # of files with many networks
    SIZES: {
        "mlp 8-16-16-4, N = 1": "MLP 8-16-16-4, 1",
        "mlp 784-200-200-10, N = 64": "MLP 784-200-200-10, 64",
        "5 conv1d, GELU, N = 256": "5 conv1d with GELU, 256",
        "96 residual blocks, N = 16": "96 residual blocks, 16",
        "ViT, 2 blocks, N = 32": "ViT of 2 blocks, 32",
        "seck_b, N = 256": "seck_b (3 conv), 256",
    },
    ZOO: {
        "torchvision:resnet18": "ResNet-18, 8",
        "torchvision:mobilenet_v3_small": "MobileNet v3 small, 8",
        "torchvision:efficientnet_b0": "EfficientNet b0, 8",
        "timm:convnext_atto": "ConvNeXt atto, 8",
        "timm:vit_tiny_patch16_224": "ViT tiny, 2",
        "torchvision:swin_t": "Swin-T, 2",
    },
}


def read(name: str) -> dict:
    """Return a file of results."""
    return json.loads((RESULTS / name).read_text())


def row(name: str, steps: list[dict | None]) -> str:
    """Return a row; the cheaper of two that belong together is bold."""
    values = [None if step is None else step["plain_steps"] for step in steps]
    cells = []
    for i, value in enumerate(values):
        other = values[i ^ 1]  # of the same penalty
        words = "not measured" if value is None else f"{value:.2f}"
        best = value is not None and other is not None and round(value, 2) < round(other, 2)
        cells.append(f"**{words}**" if best else words)
    return f"| {name} | " + " | ".join(cells) + " |\n"


def table() -> str:
    """Return the table."""
    rows = []
    for file, name in ALONE.items():
        found = read(file)
        step = found["contenders"]
        four = [step[who] for who in ("one vector, autograd", "jacfast, n = 1")]
        four += [step[who] for who in ("loop", "jacfast, exact")]
        rows.append(row(f"{name}, {found['samples']}", four))
    for file, networks in TOGETHER.items():
        found = read(file)
        for key, name in networks.items():
            two = [found[key][who] for who in ("double backward", "jacfast")]
            rows.append(row(name, [*two, None, None]))
    return HEAD + "".join(rows)


def straggler_table(found: dict) -> str:
    """Return that of `benchmarks.stragglers`: makespans over the ideal."""
    titles = {"work": "all its samples", "calls": "its slowest sample"}
    over = found["over_ideal"]
    kinds = list(next(iter(over.values())))
    rows = f"| a batch costs; its samples | {' | '.join(kinds)} |\n|---{'|---' * len(kinds)}|\n"
    for name, of in over.items():
        cost, size = name.split(", ")
        cells = [f"{of[kind]['mean']:.2f} ({of[kind]['p95']:.2f})" for kind in kinds]
        rows += f"| {titles[cost]}; {size} | {' | '.join(cells)} |\n"
    return rows


def with_table(text: str) -> str:
    """Return the README with the table of today's results."""
    return re.sub(f"(?s){BEGIN}.*?{END}", lambda _: f"{BEGIN}{table()}{END}", text)


def with_stragglers(text: str) -> str:
    """Return docs/scale.md with the table of today's results."""
    begin, rows = "<!-- stragglers -->\n", straggler_table(read("stragglers.json"))
    return re.sub(f"(?s){begin}.*?{END}", lambda _: f"{begin}{rows}{END}", text)


if __name__ == "__main__":
    README.write_text(with_table(README.read_text()))
    SCALE.write_text(with_stragglers(SCALE.read_text()))
