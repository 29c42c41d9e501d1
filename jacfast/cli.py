"""The command line: jacfast harden, attack, plot, reproduce, doctor."""

import argparse
import sys

import torch

from jacfast.attacks.whole import ATTACKS
from jacfast.commands import attack, harden, plot, reproduce
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
    except RuntimeError as error:
        if not isinstance(error, torch.OutOfMemoryError) and "allocate memory" not in str(error):
            raise
        print(
            "jacfast: out of memory; less is needed with a smaller batch size (in Python: chunk= "
            f"of forward_with_penalty and jacobian); {options.get('out')} holds what was finished",
            file=sys.stderr,
        )
        return 2
    except (ValueError, TypeError, ImportError, OSError, FloatingPointError) as error:
        print(f"jacfast: {error}", file=sys.stderr)
        return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="jacfast", description="Jacobian regularisation, fast.")
    parser.add_argument("--version", action="version", version=f"jacfast {__version__}")
    commands = parser.add_subparsers(required=True)
    doctor = commands.add_parser("doctor", help="what was built, and which life each op has here")
    doctor.set_defaults(command=_doctor)
    for command in (harden, attack, plot, reproduce):
        command.add_arguments(commands)
    return parser


def _doctor() -> int:
    from jacfast.doctor import report

    print(report())
    return 0
