"""jacfast report: how robust a trained classifier is, by several attacks at once."""

import argparse
from pathlib import Path
from typing import Any

from jacfast.commands import signature
from jacfast.commands.arguments import (
    Help,
    add_classifier,
    add_normalize,
    add_run,
    classifier,
    count,
    folder,
    numbers,
)
from jacfast.json_text import as_json


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    from jacfast.robustness import robustness_report

    parser.formatter_class = Help
    parser.set_defaults(command=report)
    add = parser.add_argument
    add_classifier(add)
    add_normalize(add)
    add("--out", type=folder, required=True, help="folder for page, picture and figures")
    add("--samples", type=count, default=500, help="test images to attack")
    add("--batch-size", type=count, default=250, help="images at a time")
    signature.add_options(parser, robustness_report)
    about = "sizes with commas between: 0.5,1 or 4/255,8/255 (default: 1, 3 and 10%% of an image)"
    add("--eps", type=numbers, metavar="E,E,E", default=argparse.SUPPRESS, help=about)
    add("--seed", type=int, default=0, help="of the random starts")
    add_run(add)


def report(
    model: str,
    weights: Path,
    data: Path | None,
    out: Path,
    samples: int,
    seed: int,
    device: str,
    json: bool,
    mean: tuple[float, ...] | None = None,
    std: tuple[float, ...] | None = None,
    **options: Any,
) -> int | str:
    """Measure, print the table and the findings, write the files."""
    import torch

    from jacfast import checks
    from jacfast import data as datasets
    from jacfast.robustness import robustness_report
    from jacfast.robustness.result import check_folder
    from jacfast.runs import held

    checks.seed(seed)
    signature.check_options(robustness_report, True, options)
    check_folder(out)
    split = datasets.load(data)
    network = classifier(model, weights, split, mean, std).to(device)
    x, y = split.test_x[:samples].to(device), split.test_y[:samples].to(device)
    generator = torch.Generator(device).manual_seed(seed)
    with held(out):
        found = robustness_report(network, x, y, generator=generator, progress=True, **options)
        written = ", ".join(str(out / name) for name in found.save(out))
    if json:
        return as_json({"model": model, "data": split.name} | found.to_dict())
    print(f"{found}\n\nwritten: {written}")
    return 0
