"""jacfast plot NAME: one picture of one model, or of two side by side."""

import argparse
from pathlib import Path

from jacfast.commands.arguments import (
    add_classifier,
    add_normalize,
    add_quiet,
    classifier,
    count,
    file,
    new_file,
)
from jacfast.files import write_atomically

NAMES = {
    "accuracy": "accuracy against the eps of FGSM, with eps_ref of the last model",
    "accuracy-jsma": "accuracy against the change of a pixel under JSMA of one pixel, 80 steps",
    "cells": "predicted classes in a plane through an image and its DeepFool image",
    "decision": "contours of the decision function around an image, in four directions",
    "decision-relief": "the decision function in relief, random and adversarial",
    "hessians": "the Hessian of the decision function in x (by central differences)",
    "jacobians": "gradients of the decision function as pictures",
    "line": "the decision function along FGSM's direction, with its tangents",
    "loss": "contours of the cross-entropy around an image, in four directions",
    "loss-relief": "the cross-entropy in relief, random and adversarial",
    "perturbations": "images, their DeepFool images and the differences",
    "perturbations-fgsm": "the same by FGSM at eps_ref of the last model",
    "roc": "ROC of the two worst classes, on DeepFool images of the first model",
    "spaces": "contours of the cross-entropy in parameter and in input space",
    "spaces-relief": "the same in relief",
    "spectra": "Jacobian entries and Hessian eigenvalues (by central differences)",
}
AROUND = ("cells", "decision", "hessians", "line", "loss", "spaces")  # an image; also in relief


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    pictures = "\n".join(f"  {name:<18} {about}" for name, about in NAMES.items())
    parser.epilog = f"pictures:\n{pictures}"
    parser.set_defaults(command=plot)
    add = parser.add_argument
    add("name", choices=list(NAMES), metavar="NAME", help="the picture, see below")
    add_classifier(add)
    add_normalize(add)
    add("--against", type=file, help="a second state_dict of the same model, drawn beside it")
    add("--out", type=new_file, required=True, help="the PNG to write")
    add("--samples", type=count, default=200, help="test images to measure on (default: 200)")
    add(
        "--image", type=int, help=f"the test image of {', '.join(AROUND)}; default: the first known"
    )
    add_quiet(add)


def plot(
    name: str,
    model: str,
    weights: Path,
    against: Path | None,
    data: Path | None,
    out: Path,
    samples: int,
    image: int | None,
    mean: tuple[float, ...] | None = None,
    std: tuple[float, ...] | None = None,
) -> int:
    """Draw, and write the file."""
    from jacfast import data as datasets
    from jacfast.commands.pictures import PICTURES
    from jacfast.commands.subject import Subject
    from jacfast.plots import png

    if image is not None and name.removesuffix("-relief") not in AROUND:
        raise ValueError(f"--image must be left out: {name} is not of one image; got {image}")
    if out.suffix.lower() not in ("", ".png"):
        raise ValueError(f"--out must be the name of a PNG; got {out}")
    files = [weights] if against is None else [weights, against]
    names = [path.stem for path in files]
    if len({*names}) < len(names):
        names = [f"{number}: {path}" for number, path in enumerate(files, start=1)]
    split = datasets.load(data)
    networks = {
        each: classifier(model, path, split, mean, std)
        for each, path in zip(names, files, strict=True)
    }
    subject = Subject(networks, split.test_x[:samples], split.test_y[:samples], image)
    write_atomically(png(PICTURES[name](subject)), out)
    print(f"{name} of {' and '.join(networks)} on {split.name}, {model}\nwritten: {out}")
    return 0
