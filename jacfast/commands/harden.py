"""jacfast harden: Jacobian regularisation of a trained classifier, before and after."""

import argparse
from pathlib import Path
from typing import Any

from jacfast.commands.arguments import DATA, folder
from jacfast.training.options import Harden


def add_arguments(commands: Any) -> None:
    """Add the command to the subparsers of the command line."""
    parser = commands.add_parser(
        "harden",
        help="harden a trained classifier and measure the effect with DeepFool",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.set_defaults(command=harden)
    add = parser.add_argument
    add("--out", type=folder, required=True, help="folder for weights, figures and picture")
    add("--model", help="package.module:factory of your own model; default: the TF-tutorial CNN")
    add("--weights", type=Path, help="trained state_dict of --model (.pt or .safetensors)")
    add("--data", type=Path, help=DATA)
    add(
        "--train-epochs",
        type=int,
        default=Harden.train_epochs,
        help="of plain training, without --model",
    )
    add("--epochs", type=int, default=Harden.epochs, help="of hardening")
    add("--lam", type=float, default=Harden.lam, help="weight of the mean squared Frobenius norm")
    add("--n", type=_projections, default=Harden.n, help="projections per step, or 'exact'")
    add("--batch-size", type=int, default=Harden.batch_size, help="images per step")
    add(
        "--chunk",
        type=int,
        help="images at a time within a step, and in the timed one; only roundings differ",
    )
    add("--lr", type=float, default=Harden.lr, help="Adam's step size")
    add(
        "--seed",
        type=int,
        default=Harden.seed,
        help="of weights, shuffling, dropout and projections",
    )
    add("--eval-samples", type=int, default=Harden.eval_samples, help="test images to measure on")
    add("--resume", action="store_true", help="continue an interrupted run in --out")


def _projections(text: str) -> int | str:
    try:
        return text if text == "exact" else int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be a number, or 'exact'; got {text!r}") from None


def harden(resume: bool, **options: Any) -> int:
    """Harden, print the table, name the files."""
    from jacfast.training import harden as training
    from jacfast.training.table import table

    run = Harden(**options)
    figures = training.harden(run, resume)
    print("\n" + table(figures))
    names = ["hardened.pt", "figures.json", "harden.png", "report.html"]
    print("\nwritten: " + ", ".join(str(run.out / name) for name in names))
    return 0
