"""The command line: jacfast harden, attack, report, bench, plot, reproduce, doctor."""

import argparse
import contextlib
import importlib
import os
import re
import select
import sys
from typing import Any

from jacfast.interrupt import restore
from jacfast.progress import silent
from jacfast.version import __version__

# A module each in `jacfast.commands`, imported when it is named: PyTorch takes a second. A command
# returns the exit status or, with --json, the object to print.
COMMANDS = {
    "harden": "harden a trained classifier and measure the effect with DeepFool",
    "attack": "attack the test images of a data set; goes on where a killed run stopped",
    "report": "how robust a classifier is, by several attacks at once, and what may be hidden",
    "bench": "time the penalised step on your own model, against the ways it is written today",
    "plot": "draw a picture of a trained model, or of two to compare them",
    "reproduce": "train and measure what a table of a paper shows, and compare",
}

# By command, where what was finished is noted, and what needs less memory.
STATE = {
    "attack": ("attack.json",),
    "harden": ("training.pt", "checkpoint.pt"),
    "reproduce": ("run.json", "*/run.json"),
}
LESS = {
    "attack": "a smaller --batch-size",
    "bench": "a smaller --batch",
    "deepfool": "a smaller --chunk-size",
    "harden": "a smaller --chunk-size",
    "plot": "fewer --samples",
    "report": "a smaller --batch-size",
}


def main(arguments: list[str] | None = None) -> int:
    """Run one command; return the exit status.

    0, 2 for a user's error, 130 when interrupted, 141 when nobody reads what is printed.
    """
    options: dict[str, Any] = {}
    try:
        words = _joined(sys.argv[1:] if arguments is None else arguments)
        options |= vars(_parser(words).parse_args(words))
        importlib.import_module("torch")  # every command needs it; Ctrl-C meanwhile: `interrupt`
        restore()
        given = {name: value for name, value in options.items() if name not in ("command", "quiet")}
        with silent(options.get("quiet", False)), _alone(options.get("json") is True):
            done = options["command"](**given)
        if isinstance(done, str):
            print(done)
        sys.stdout.flush()
        return 0 if isinstance(done, str) else done
    except BrokenPipeError as error:
        return _unread(error)
    except KeyboardInterrupt:
        print(f"\njacfast: interrupted; {_again(options)}", file=sys.stderr)
        return 130
    except SystemExit as error:
        if "command" not in options:  # the parser's own: help, version, usage
            raise
        print(f"jacfast: the model's code ended the process; SystemExit: {error}", file=sys.stderr)
        return 2
    except (RuntimeError, MemoryError) as error:
        from jacfast.memory import ran_out

        if not ran_out(error):
            raise
        print(f"jacfast: out of memory; {_less(options)}{_again(options)}", file=sys.stderr)
        return 2
    except (ValueError, TypeError, ImportError, OSError, FloatingPointError) as error:
        print(f"jacfast: {_flagged(str(error), options)}", file=sys.stderr)
        return 2


def _alone(json: bool) -> contextlib.AbstractContextManager:
    """With --json, put on stderr what anybody prints, a user's model, say: stdout is the object."""
    return contextlib.redirect_stdout(sys.stderr) if json else contextlib.nullcontext()


def _unread(error: BrokenPipeError) -> int:
    """Return the status of a program that SIGPIPE ends, where nobody reads on: behind `| head`."""
    here = select.poll()
    here.register(sys.stdout.fileno(), 0)  # for errors alone
    if here.poll(0):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the rest is for nobody
        return 141
    print(f"jacfast: {error}", file=sys.stderr)  # of another pipe
    return 2


def _less(options: dict[str, Any]) -> str:
    """Say which options need less memory."""
    kinds = (options.get("name"), options["command"].__name__)  # that of the attack first
    less = [LESS[kind] for kind in kinds if kind in LESS][:1]
    less += ["--device cpu"] if options.get("device", "cpu") != "cpu" else []
    return f"less is needed with {' or '.join(less)}; " if less else ""


def _again(options: dict[str, Any]) -> str:
    """Say what the same command would do: it looks at what is there."""
    if "command" not in options:
        return "nothing was begun"
    kind, out = options["command"].__name__, options.get("out")
    if out is None or not any(any(out.glob(file)) for file in STATE.get(kind, ())):
        return "the same command starts anew"
    return f"the same command{' with --resume' if kind == 'harden' else ''} goes on from {out}"


def _flagged(words: str, options: dict[str, Any]) -> str:
    """Return an error about an argument under the name that it has here."""
    name = words.split(" ", 1)[0]
    known = name in options and name != "name"  # the one that has no flag
    return f"--{name.replace('_', '-')}{words[len(name) :]}" if known else words


def _joined(words: list[str]) -> list[str]:
    """Return the words with ``--clip -1,1`` as ``--clip=-1,1``.

    Of what begins with a minus argparse takes plain numbers alone for values.
    """
    joined: list[str] = []
    for word in words:
        option = bool(joined) and re.fullmatch(r"--[a-z][a-z-]*", joined[-1])
        if option and re.match(r"-(\.?\d|inf)", word):
            joined[-1] += f"={word}"
        else:
            joined.append(word)
    return joined


class _Parser(argparse.ArgumentParser):
    """One that takes options by their whole names: ``jsma --p 2`` would be ``--pixels 2``."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options, allow_abbrev=False)


def _parser(words: list[str]) -> argparse.ArgumentParser:
    """Return the parser, with the options of the command that is named."""
    parser = _Parser(prog="jacfast", description="Jacobian regularisation, fast.")
    parser.add_argument("--version", action="version", version=f"jacfast {__version__}")
    commands = parser.add_subparsers(required=True)
    doctor = commands.add_parser("doctor", help="what was built, and what each op runs as here")
    doctor.set_defaults(command=_doctor)
    for name, about in COMMANDS.items():
        command = commands.add_parser(name, help=about)
        if name in words[:1]:
            importlib.import_module(f"jacfast.commands.{name}").add_arguments(command)
    return parser


def _doctor() -> int:
    from jacfast.doctor import report

    print(report())
    return 0
