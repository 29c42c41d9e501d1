"""The command line: jacfast harden, jacfast doctor."""

import argparse
import sys
from pathlib import Path

from jacfast.training.options import Harden
from jacfast.version import __version__


def main(arguments: list[str] | None = None) -> int:
    """Run one command; return the exit status: 0, 2 for a user's error, 130 when interrupted."""
    options = vars(_parser().parse_args(arguments))
    command = options.pop("command")
    try:
        return command(**options)
    except KeyboardInterrupt:
        out = options.get("out")
        print(
            f"\njacfast: interrupted; the same command with --resume goes on from {out}",
            file=sys.stderr,
        )
        return 130
    except (ValueError, TypeError, ImportError, OSError, FloatingPointError) as error:
        print(f"jacfast: {error}", file=sys.stderr)
        return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="jacfast", description="Jacobian regularisation, fast.")
    parser.add_argument("--version", action="version", version=f"jacfast {__version__}")
    commands = parser.add_subparsers(required=True)
    doctor = commands.add_parser("doctor", help="what was built, and which life each op has here")
    doctor.set_defaults(command=_doctor)

    harden = commands.add_parser(
        "harden",
        help="harden a trained classifier and measure the effect with DeepFool",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    harden.set_defaults(command=_harden)
    add = harden.add_argument
    add("--out", type=Path, required=True, help="folder for weights, figures and picture")
    add("--model", help="package.module:factory of your own model; default: the TF-tutorial CNN")
    add("--weights", type=Path, help="trained state_dict of --model (.pt or .safetensors)")
    add("--data", type=Path, help="folder with MNIST IDX or CIFAR pickles; default: 5,000 digits")
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
    add("--lr", type=float, default=Harden.lr, help="Adam's step size")
    add(
        "--seed",
        type=int,
        default=Harden.seed,
        help="of weights, shuffling, dropout and projections",
    )
    add("--eval-samples", type=int, default=Harden.eval_samples, help="test images to measure on")
    add("--resume", action="store_true", help="continue an interrupted run in --out")
    return parser


def _projections(text: str) -> int | str:
    return text if text == "exact" else int(text)


def _doctor() -> int:
    from jacfast.doctor import report

    print(report())
    return 0


def _harden(resume: bool, **options) -> int:
    from jacfast.training.harden import harden
    from jacfast.training.table import table

    run = Harden(**options)
    figures = harden(run, resume)
    print("\n" + table(figures))
    names = ["hardened.pt", "figures.json", "harden.png"]
    print("\nwritten: " + ", ".join(str(run.out / name) for name in names))
    return 0
