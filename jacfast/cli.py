"""The command line: jacfast harden, attack, plot, reproduce, doctor."""

import argparse
import sys
from pathlib import Path
from typing import Any

from jacfast.attacks.options import PRESETS, VARIANTS
from jacfast.attacks.whole import ATTACKS, attack_to_file
from jacfast.commands import plot
from jacfast.training.options import Harden
from jacfast.version import __version__


def main(arguments: list[str] | None = None) -> int:
    """Run one command; return the exit status: 0, 2 for a user's error, 130 when interrupted."""
    options = vars(_parser().parse_args(arguments))
    command = options.pop("command")
    try:
        return command(**options)
    except KeyboardInterrupt:
        again = "the same command with --resume" if "resume" in options else "the same command"
        goes_on = "starts anew in" if options.get("name") in ATTACKS else "goes on from"
        print(f"\njacfast: interrupted; {again} {goes_on} {options.get('out')}", file=sys.stderr)
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
    _attack_arguments(commands)
    _reproduce_arguments(commands)
    plot.add_arguments(commands)
    return parser


def _reproduce_arguments(commands: Any) -> None:
    reproduce = commands.add_parser(
        "reproduce",
        help="train and measure what a table of a paper shows, and compare",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    reproduce.set_defaults(command=_reproduce)
    add = reproduce.add_argument
    add("name", nargs="?", help="the table; without it they are listed")
    add("--out", type=Path, help="folder of the run, to go on in after an interruption")
    add("--data", type=Path, help="folder with the data set; with --quick 5,000 digits will do")
    add("--quick", action="store_true", help="less training, fewer images: about two minutes")
    add("--device", default="cpu", help="cpu or cuda")


def _attack_arguments(commands: Any) -> None:
    attack = commands.add_parser(
        "attack",
        help="attack the test images of a data set; deepfool goes on where a killed run stopped",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    attack.set_defaults(command=_attack)
    add = attack.add_argument
    add("name", choices=["deepfool", *ATTACKS], help="the attack")
    add("--model", required=True, help="package.module:factory, e.g. jacfast.models:seck_c")
    add("--weights", type=Path, required=True, help="its state_dict (.pt or .safetensors)")
    add("--data", type=Path, help="folder with MNIST IDX or CIFAR pickles; default: 5,000 digits")
    add("--out", type=Path, required=True, help="folder for the results")
    add("--preset", choices=sorted(PRESETS), help="of deepfool: another implementation's choices")
    add("--variant", choices=VARIANTS, help="of deepfool; super: SuperDeepFool")
    add("--p", type=float, help="the norm: deepfool: 2, inf, any above 1; pgd, bim: 2, inf")
    add("--eps", type=float, help="radius of fgsm, bim and pgd; change of a pixel of jsma")
    add("--steps", type=int, help="of bim, pgd, jsma, carlini_wagner")
    add("--labels", action="store_true", help="leave the true class, not the predicted one")
    add("--samples", type=int, help="test images to attack; default: all")
    add("--batch-size", type=int, default=500, help="images at a time")
    add("--device", default="cpu", help="cpu or cuda")


def _projections(text: str) -> int | str:
    return text if text == "exact" else int(text)


def _doctor() -> int:
    from jacfast.doctor import report

    print(report())
    return 0


def _attack(
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
    from jacfast import data as datasets
    from jacfast import models

    for option, count in (("samples", samples), ("batch-size", batch_size)):
        if count is not None and count < 1:
            raise ValueError(f"--{option} must be >= 1; got {count}")
    network = models.load_factory(model)
    models.load_weights(network, weights)
    network.to(device).eval()
    split = datasets.load(data)
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


def _deepfool(out: Path, network: Any, batches: list, preset: str | None, **options: Any) -> str:
    from jacfast.attacks import deepfool_to_disk

    for option in ("eps", "steps"):
        if options.pop(option) is not None:
            raise ValueError(f"--{option} must be left out: deepfool has no such option")
    usual = {"p": 2.0, "variant": "deepfool"}
    given = {option: value for option, value in options.items() if value is not None}
    choices = {**(PRESETS[preset] if preset else {}), **usual, **given}
    return deepfool_to_disk(out, network, batches, **choices).summary()


def _harden(resume: bool, **options) -> int:
    from jacfast.training.harden import harden
    from jacfast.training.table import table

    run = Harden(**options)
    figures = harden(run, resume)
    print("\n" + table(figures))
    names = ["hardened.pt", "figures.json", "harden.png"]
    print("\nwritten: " + ", ".join(str(run.out / name) for name in names))
    return 0


def _reproduce(name: str | None, out: Path | None, data: Path | None, **options) -> int:
    from jacfast import reproduce

    if name is None:
        for known in reproduce.names():
            table = reproduce.load(known)
            print(f"{known:<16} {table.source}: {table.title}")
        return 0
    if out is None:
        raise ValueError("--out must be a folder for the run; got none")
    result = reproduce.reproduce(name, out, data, **options)
    print("\n" + reproduce.text(result))
    print("\nwritten: " + ", ".join(str(out / file) for file in reproduce.write(result, out)))
    return 0
