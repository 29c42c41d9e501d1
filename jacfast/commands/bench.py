"""jacfast bench: a penalised step on the user's own model, against the ways it is written today."""

import argparse
import sys
from pathlib import Path

from jacfast.commands.arguments import MODEL, Help, add_device, add_quiet, count, new_file, number
from jacfast.commands.penalty import penalty as read_penalty
from jacfast.files import write_atomically
from jacfast.penalties import Penalty
from jacfast.timing.contenders import RIVALS

DESCRIPTION = (
    "Time the penalised training step of a model by each way there is: gradients are checked\n"
    "first, then all take turns. Weights are the model's own; images and labels are random."
)
RIVAL = "\n".join(f"  {key:<14}{words}" for key, words in RIVALS.items())


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    parser.description, parser.formatter_class = DESCRIPTION, Raw
    parser.epilog = f"RIVALS, any of, with commas between:\n{RIVAL}"
    parser.set_defaults(command=bench)
    add = parser.add_argument
    add("--model", required=True, help=MODEL)
    add("--input", type=_shape, metavar="C,H,W", help="shape of a sample; default: where known")
    add("--batch", type=count, default=32, help="samples of a step")
    add("--classes", type=count, help="outputs; default: the model's own")
    add("--penalty", type=read_penalty, default="Frobenius(n=1)", help="as in Python")
    add("--against", type=_rivals, metavar="RIVALS", help="those named below; default: all")
    add("--train", action="store_true", help="in training mode; default: eval mode")
    add("--seconds", type=number, default=20.0, help="how long to time, after checks and compiling")
    add("--threads", type=_threads, help="of torch; default: its own choice")
    add_device(add)
    add("--json", type=new_file, metavar="F", help="write the figures to this file, too")
    add_quiet(add)


class Raw(Help, argparse.RawDescriptionHelpFormatter):
    """Help that keeps the lines of its epilog."""


def bench(
    model: str,
    input: tuple[int, ...] | None,
    batch: int,
    classes: int | None,
    penalty: Penalty,
    against: tuple[str, ...] | None,
    train: bool,
    seconds: float,
    threads: int | None,
    device: str,
    json: Path | None,
) -> int:
    """Measure, print the table, write the file; print what there is when interrupted."""
    import torch

    from jacfast import models
    from jacfast.models.zoo import input_shape
    from jacfast.timing.benchmark import fill
    from jacfast.timing.result import Result
    from jacfast.training.mode import set_mode

    if threads is not None:
        torch.set_num_threads(threads)
    network = set_mode(models.load_factory(model, classes).to(device), training=train)
    shape = input or input_shape(model, network)
    if shape is None:
        raise ValueError(
            "input must be given for a model of your own: the shape of a sample, such as "
            f"3,224,224; got none for {model}"
        )
    dtype = next((p.dtype for p in network.parameters()), torch.float32)
    x = torch.rand(batch, *shape, dtype=torch.float32).to(device, dtype)
    result, chosen = Result(), tuple(RIVALS) if against is None else against
    try:
        fill(result, network, x, None, penalty, against=chosen, seconds=seconds, classes=classes)
    except KeyboardInterrupt:
        if not result.rows:
            raise
        result.interrupted = True
    result.about["model"] = model
    print(result)
    if json is not None:
        write_atomically(result.to_json().encode(), json)
        print(f"\nwritten: {json}")
    if result.interrupted:
        print("\njacfast: interrupted; the table holds what there is", file=sys.stderr)
    return 130 if result.interrupted else 0


def _threads(text: str) -> int:
    return count(text, most=2**31 - 1)  # PyTorch's own limit


def _shape(text: str) -> tuple[int, ...]:
    try:
        sides = tuple(int(side) for side in text.split(","))
    except ValueError:
        sides = ()
    if not sides or min(sides) < 1:
        raise argparse.ArgumentTypeError(f"must be sizes such as 3,224,224; got {text!r}")
    return sides


def _rivals(text: str) -> tuple[str, ...]:
    names = tuple(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    unknown = [name for name in names if name not in RIVALS]
    if unknown:
        raise argparse.ArgumentTypeError(
            f"must be some of {','.join(RIVALS)}; got {unknown[0]!r} in {text!r}"
        )
    return names
