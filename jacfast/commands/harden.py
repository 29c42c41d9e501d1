"""jacfast harden: Jacobian regularisation of a trained classifier, before and after."""

import argparse
from typing import Any

from jacfast.commands.arguments import (
    DATA,
    MODEL,
    Help,
    add_normalize,
    add_run,
    count,
    existing_folder,
    file,
    folder,
    number,
)
from jacfast.json_text import as_json
from jacfast.training.options import Harden


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    parser.formatter_class = Help
    parser.set_defaults(command=harden)
    add = parser.add_argument
    add("--out", type=folder, required=True, help="folder for weights, figures and picture")
    add("--model", help=f"{MODEL}; default: the TF-tutorial CNN")
    add("--weights", type=file, help="trained state_dict of --model (.pt or .safetensors)")
    add("--data", type=existing_folder, help=DATA)
    add_normalize(add)
    add(
        "--train-epochs",
        type=count,
        default=argparse.SUPPRESS,
        help=f"of plain training, without --model (default: {Harden.train_epochs})",
    )
    add("--epochs", type=count, default=Harden.epochs, help="of hardening")
    add("--lam", type=number, default=Harden.lam, help="weight of the mean squared Frobenius norm")
    add("--n", type=_projections, default=Harden.n, help="projections per step, or 'exact'")
    add("--batch-size", type=count, default=Harden.batch_size, help="images per step")
    add(
        "--chunk-size",
        type=count,
        help="images at a time within a step, and in the timed one; only roundings differ",
    )
    add("--lr", type=number, default=Harden.lr, help="Adam's step size")
    add(
        "--seed",
        type=int,
        default=Harden.seed,
        help="of weights, shuffling, dropout and projections",
    )
    add("--eval-samples", type=count, default=Harden.eval_samples, help="test images to measure on")
    add("--resume", action="store_true", help="go on with a run in --out, or begin one")
    add_run(add)


def _projections(text: str) -> int | str:
    if text == "exact":
        return text
    try:
        return count(text)
    except argparse.ArgumentTypeError as error:
        raise argparse.ArgumentTypeError(f"{error} (or 'exact')") from None


def harden(resume: bool, json: bool, **options: Any) -> int | str:
    """Harden, print the table, name the files."""
    from jacfast.training import harden as training
    from jacfast.training.table import table

    if options["model"] is not None and "train_epochs" in options:
        raise ValueError(
            "train_epochs must be left out with a model, which is trained; got "
            f"{options['train_epochs']}"
        )
    run = Harden(**options)
    figures = training.harden(run, resume)
    if not figures:  # the first of several processes speaks for all
        return 0
    if json:
        return as_json(figures)
    names = ["hardened.pt", "figures.json", "harden.png", "report.html"]
    written = ", ".join(str(run.out / name) for name in names)
    print(f"\n{table(figures)}\n\nwritten: {written}")
    return 0
