"""The command line: jacfast harden, attack, plot, reproduce, doctor."""

import argparse
import sys
from pathlib import Path

from jacfast.commands import attack, harden, plot, reproduce
from jacfast.memory import ran_out
from jacfast.version import __version__

# By command, where what was finished is noted, and what needs less memory.
STATE = {
    "deepfool": ("attack.json",),
    "harden": ("training.pt", "checkpoint.pt"),
    "reproduce": ("run.json",),
}
LESS = {
    "attack": "a smaller --batch-size",
    "deepfool": "a smaller --chunk",
    "harden": "a smaller --chunk",
    "plot": "fewer --samples",
}


def main(arguments: list[str] | None = None) -> int:
    """Run one command; return the exit status: 0, 2 for a user's error, 130 when interrupted."""
    options = vars(_parser().parse_args(arguments))
    command = options.pop("command")
    kind = "deepfool" if options.get("name") == "deepfool" else command.__name__
    try:
        return command(**options)
    except KeyboardInterrupt:
        print(f"\njacfast: interrupted; {_again(kind, options.get('out'))}", file=sys.stderr)
        return 130
    except (RuntimeError, MemoryError) as error:
        if not ran_out(error):
            raise
        less = [LESS[kind]] if kind in LESS else []
        less += ["--device cpu"] if options.get("device", "cpu") != "cpu" else []
        advice = f"less is needed with {' or '.join(less)}; " if less else ""
        again = _again(kind, options.get("out"))
        print(f"jacfast: out of memory; {advice}{again}", file=sys.stderr)
        return 2
    except (ValueError, TypeError, ImportError, OSError, FloatingPointError) as error:
        print(f"jacfast: {error}", file=sys.stderr)
        return 2


def _again(kind: str, out: Path | None) -> str:
    """Say what the same command would do: it looks at what is there."""
    if out is None or not any((out / file).exists() for file in STATE.get(kind, ())):
        return "the same command starts anew"
    return f"the same command{' with --resume' if kind == 'harden' else ''} goes on from {out}"


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
