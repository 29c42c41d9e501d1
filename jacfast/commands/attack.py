"""jacfast attack NAME: an attack over the test images of a data set."""

import argparse
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

from jacfast.attacks import deepfool
from jacfast.attacks.deepfool_result import DeepFoolResult
from jacfast.attacks.options import PRESETS
from jacfast.attacks.stream import NOTE, deepfool_files
from jacfast.attacks.whole import ATTACKS, attack_to_file
from jacfast.commands import signature
from jacfast.commands.arguments import (
    Help,
    add_classifier,
    add_normalize,
    add_run,
    count,
    folder,
    trained,
)
from jacfast.json_text import as_json
from jacfast.meeting import place
from jacfast.runs import check_own

PRESET = "another implementation's choices; foolbox's and adv-lib's start from --labels"
EVERY: dict[str, Callable[..., Any]] = {"deepfool": deepfool, **ATTACKS}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add a command for each attack."""
    names = parser.add_subparsers(dest="name", metavar="NAME", required=True)
    for name, function in EVERY.items():
        what = (inspect.getdoc(function) or "").splitlines()[0].replace("`", "").replace("%", "%%")
        own = names.add_parser(
            name,
            aliases=[name.replace("_", "-")] if "_" in name else [],
            help=what,
            description=what,
            formatter_class=Help,
        )
        own.set_defaults(command=attack, name=name)
        _add_common(own.add_argument, name)
        signature.add_options(own, function)


def _add_common(add: Any, name: str) -> None:
    add_classifier(add)
    add_normalize(add)
    add("--out", type=folder, required=True, help="folder for the results")
    add("--labels", action="store_true", help="leave the true class, not the predicted one")
    add("--samples", type=count, help="test images to attack; default: all")
    per = "per file" if name == "deepfool" else "at a time; a run may go on with fewer"
    add("--batch-size", type=count, default=500, help=f"images {per}")
    if name == "deepfool":
        add("--chunk-size", type=count, help="images at a time; the results are the same")
        add("--preset", choices=sorted(PRESETS), help=PRESET)
    add_run(add)


def attack(
    name: str,
    model: str,
    weights: Path,
    data: Path | None,
    out: Path,
    samples: int | None,
    device: str,
    json: bool,
    preset: str | None = None,
    chunk_size: int | None = None,
    mean: tuple[float, ...] | None = None,
    std: tuple[float, ...] | None = None,
    **options: Any,
) -> int | str:
    """Attack, print the figures, write the files."""
    from jacfast import data as datasets
    from jacfast import models

    labels, batch_size = options.pop("labels"), options.pop("batch_size")
    options = {**(PRESETS[preset] if preset else {}), **options}
    signature.check_options(EVERY[name], labels, options)
    check_own(out, NOTE)
    network = trained(model, weights)
    split = datasets.load(data)
    network = models.normalized(network, mean, std, split)
    classes = models.check_fits(network, split)
    if (target := options.get("target")) is not None and not 0 <= target < classes:
        raise ValueError(f"target must lie in 0 .. K - 1 = {classes - 1}; got {target}")
    network.to(device)
    x, y = split.test_x[:samples], split.test_y[:samples]
    if name == "deepfool":
        batches = zip(x.split(batch_size), y.split(batch_size), strict=True)
        options["batch_size"] = chunk_size
        paths = deepfool_files(out, network, list(batches), labels, options)
        parts = [DeepFoolResult.load(path, images=False) for path in paths]
        figures = DeepFoolResult.cat(parts).figures()
        files = f"{len(paths)} files in {out}, read by DeepFoolResult.load"
    else:
        path = out / "adversarial.safetensors"
        figures = attack_to_file(path, name, network, x, y, batch_size, labels=labels, **options)
        files = str(path)
    if place()[0] > 0:  # the first of several processes speaks for all
        return 0
    if json:
        return as_json({"attack": name, "model": model, "data": split.name, "figures": figures})
    print(f"{name} on {split.name}, {model}\n\n{_lines(figures)}\n\nwritten: {files}")
    return 0


def _lines(figures: dict[str, float]) -> str:
    """Return a line per figure."""
    width = max(map(len, figures))
    return "\n".join(f"{name:<{width}}  {value:>10.5g}" for name, value in figures.items())
