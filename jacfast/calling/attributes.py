"""What an object of the user's own holds by names, in its dictionary and in its slots."""

import contextlib
import sys
import types
from typing import Any

# Of these packages nothing is looked into: what changes there (a trainer, a writer of logs) is not
# the model's.
LIGHTNING = {"lightning", "pytorch_lightning", "lightning_fabric"}
FOREIGN = {"torch", "numpy", "transformers", "accelerate", *LIGHTNING}
HOLDERS = {"types", "argparse", "collections"}  # of the standard library: namespaces, UserDict
CACHES = {"transformers.cache_utils"}  # what a model is given to write to


def has_attributes(thing: Any) -> bool:
    """Say whether it is the user's, and holds something by names."""
    kind = type(thing)
    return of_user(kind) and (hasattr(thing, "__dict__") or bool(slots(kind)))


def of_user(kind: type) -> bool:
    """Say whether objects of a class may be part of a model, and not of a library it uses."""
    package = kind.__module__.partition(".")[0]
    ours = package not in FOREIGN and package not in sys.stdlib_module_names
    return ours or package in HOLDERS or kind.__module__ in CACHES


def attributes(thing: Any) -> dict[str, Any]:
    """Return what an object holds by names: its own dictionary, or a new one if it has slots."""
    held, found = getattr(thing, "__dict__", {}), slots(type(thing))
    if not found:
        return held
    held = dict(held)
    for name, slot in found.items():
        with contextlib.suppress(AttributeError):  # an empty one
            held[name] = slot.__get__(thing)
    return held


def put_attributes(thing: Any, held: dict[str, Any]) -> None:
    """Make an object hold this by names."""
    now, found, own = attributes(thing), slots(type(thing)), getattr(thing, "__dict__", {})
    for name in now.keys() - held.keys():
        if name in found:
            found[name].__delete__(thing)
        else:
            del own[name]
    for name, value in held.items():
        if name in now and now[name] is value:
            continue
        if name in found:
            found[name].__set__(thing, value)
        else:
            own[name] = value


def slots(kind: type) -> dict[str, Any]:
    """Return the slots of a class, which work past its own methods: a frozen dataclass, too."""
    found: dict[str, Any] = {}
    for one in kind.__mro__:
        held = vars(one)
        if "__slots__" in held:
            found |= {k: v for k, v in held.items() if type(v) is types.MemberDescriptorType}
    return found
