"""A step that is tried before any work: what it raises is said of the model."""

import contextlib
from collections.abc import Iterator

from jacfast.memory import ran_out


@contextlib.contextmanager
def tried(step: str) -> Iterator[None]:
    """Try `step`, named in a few words, inside the context; lack of memory passes on as it is.

    Raises:
        ValueError: it raised, whatever a user's model raises when it is trained.
    """
    try:
        yield
    except (Exception, SystemExit) as error:
        if ran_out(error):
            raise
        raise ValueError(
            f"model must be one that can be trained; {step} raised {type(error).__name__}: {error}"
        ) from error
