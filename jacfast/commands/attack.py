"""jacfast attack NAME: an attack over the test images of a data set."""

import argparse
from pathlib import Path
from typing import Any

from jacfast.attacks.options import PRESETS, VARIANTS
from jacfast.attacks.whole import ATTACKS, attack_to_file
from jacfast.commands.arguments import add_classifier, add_device, classifier, folder


def add_arguments(commands: Any) -> None:
    """Add the command to the subparsers of the command line."""
    parser = commands.add_parser(
        "attack",
        help="attack the test images of a data set; deepfool goes on where a killed run stopped",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.set_defaults(command=attack)
    add = parser.add_argument
    add("name", choices=["deepfool", *ATTACKS], help="the attack")
    add_classifier(add)
    add("--out", type=folder, required=True, help="folder for the results")
    add("--preset", choices=sorted(PRESETS), help="of deepfool: another implementation's choices")
    add("--variant", choices=VARIANTS, help="of deepfool; super: SuperDeepFool")
    add("--p", type=float, help="the norm: deepfool: 2, inf, any above 1; pgd, bim: 2, inf")
    add("--eps", type=float, help="radius of fgsm, bim and pgd; change of a pixel of jsma")
    add("--steps", type=int, help="of bim, pgd, jsma, carlini_wagner")
    add("--labels", action="store_true", help="leave the true class, not the predicted one")
    add("--samples", type=int, help="test images to attack; default: all")
    add("--batch-size", type=int, default=500, help="images at a time; of deepfool: per file")
    add("--chunk", type=int, help="of deepfool: images at a time; the results are the same")
    add_device(add)


def attack(
    name: str,
    model: str,
    weights: Path,
    data: Path | None,
    out: Path,
    samples: int | None,
    batch_size: int,
    device: str,
    **options: Any,
) -> int:
    """Attack, print the figures, write the files."""
    from jacfast import data as datasets

    for option, count in (("samples", samples), ("batch-size", batch_size)):
        if count is not None and count < 1:
            raise ValueError(f"--{option} must be >= 1; got {count}")
    split = datasets.load(data)
    network = classifier(model, weights, split).to(device)
    x, y = split.test_x[:samples], split.test_y[:samples]
    title = f"{name} on {split.name}, {model}\n"
    if name == "deepfool":
        batches = list(zip(x.split(batch_size), y.split(batch_size), strict=True))
        print(f"{title}\n{_deepfool(out, network, batches, **options)}")
        print(f"\nwritten: {len(batches)} files in {out}, read by DeepFoolResult.load")
        return 0
    path = out / "adversarial.safetensors"
    figures = attack_to_file(path, name, network, x, y, batch_size, **options)
    print("\n".join([title, *(f"{figure:20}{value:10.4g}" for figure, value in figures.items())]))
    print(f"\nwritten: {path}")
    return 0


def _deepfool(
    out: Path, network: Any, batches: list, preset: str | None, chunk: int | None, **options: Any
) -> str:
    from jacfast.attacks import deepfool_to_disk

    for option in ("eps", "steps"):
        if options.pop(option) is not None:
            raise ValueError(f"--{option} must be left out: deepfool has no such option")
    usual = {"p": 2.0, "variant": "deepfool"}
    given = {option: value for option, value in options.items() if value is not None}
    choices = {**(PRESETS[preset] if preset else {}), **usual, **given}
    return deepfool_to_disk(out, network, batches, batch_size=chunk, **choices).summary()
