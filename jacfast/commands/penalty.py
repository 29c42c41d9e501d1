"""A penalty as it is written in Python, read without running anything."""

import argparse
import ast
import inspect

from jacfast import penalties
from jacfast.penalties import Penalty

PENALTIES: dict[str, type[Penalty]] = {
    name: kind
    for name, kind in vars(penalties).items()
    if inspect.isclass(kind) and issubclass(kind, Penalty) and not inspect.isabstract(kind)
}
RULE = f"must be one of {', '.join(PENALTIES)} with its arguments, such as 'Frobenius(n=1)'"


def penalty(text: str) -> Penalty:
    """Return the penalty that `text` writes: a name, and literal arguments in brackets."""
    try:
        node: ast.expr = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise argparse.ArgumentTypeError(f"{RULE}; got {text!r}") from None
    call = node if isinstance(node, ast.Call) else ast.Call(node, [], [])
    name = call.func.id if isinstance(call.func, ast.Name) else None
    if name not in PENALTIES or any(keyword.arg is None for keyword in call.keywords):
        raise argparse.ArgumentTypeError(f"{RULE}; got {text!r}")
    try:
        args = [ast.literal_eval(value) for value in call.args]
        kwargs = {str(one.arg): ast.literal_eval(one.value) for one in call.keywords}
    except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
        raise argparse.ArgumentTypeError(
            f"must have numbers and words as arguments; got {text!r}"
        ) from None
    try:
        return PENALTIES[name](*args, **kwargs)
    except (TypeError, ValueError) as error:
        words = str(error).removeprefix(f"{name}.__init__() ")
        raise argparse.ArgumentTypeError(f"must be possible: {words}; got {text!r}") from error
