"""Which modules a callable runs: looking through functions, partials, methods and objects."""

import dis
import functools
import itertools
import types
import weakref
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import nn

from jacfast.calling.attributes import attributes

MOST = 2000  # things to look at, nearest first: an object may hold a data set
OPAQUE = (torch.Tensor, str, bytes, int, float, complex, type, types.NoneType, types.CodeType)
NAMED = ("LOAD_GLOBAL", "LOAD_NAME")
OURS = ("torch", "jacfast", "numpy")  # packages whose globals are no user's modules


def modules_of(model: object) -> list[nn.Module]:
    """Return the modules that a call of `model` may run, with all of theirs, each once.

    Of a module its own. A function, lambda, partial, bound method or object is looked through:
    what it has closed over, the globals that its code names, its defaults, its attributes, and the
    same of what is found there.
    """
    roots = [thing for thing in looked_through(model) if isinstance(thing, nn.Module)]
    return list({id(module): module for root in roots for module in root.modules()}.values())


def device_of(model: object) -> torch.device:
    """Return where a model is; a function in which no module is found is on the CPU."""
    tensors = (t for m in modules_of(model) for t in (*m.parameters(), *m.buffers()))
    return next((tensor.device for tensor in tensors), torch.device("cpu"))


def looked_through(model: object) -> Iterator[object]:
    """Yield `model` and, nearest first, what is found in it; modules are not looked into."""
    todo, seen = [model], dict[int, object]()
    while todo and len(seen) < MOST:
        following: list[object] = []
        for thing in todo:
            if id(thing) not in seen and not _opaque(thing):
                seen[id(thing)] = thing  # held: its id is its own
                yield thing
                if not isinstance(thing, nn.Module):
                    following += _looked_into(thing)
        todo = following


def compiled(model: object) -> bool:
    """Say whether torch.compile made `model` or something that it runs."""
    return any(
        hasattr(thing, "_torchdynamo_orig_callable")
        or (isinstance(thing, nn.Module) and any(map(compiled_module, thing.modules())))
        for thing in looked_through(model)
    )


def unwrapped(model: Any) -> Any:
    """Return what partials without arguments stand for."""
    while isinstance(model, functools.partial) and not (model.args or model.keywords):
        model = model.func
    return model


def compiled_module(module: nn.Module) -> bool:
    """Say whether torch.compile made this very module, or was told to compile its calls."""
    return "_orig_mod" in module._modules or module._compiled_call_impl is not None


def _opaque(thing: Any) -> bool:
    try:
        return isinstance(thing, OPAQUE)
    except Exception:  # whatever a user's object does when it is looked at
        return True


def _looked_into(thing: Any) -> list[Any]:
    try:
        return list(itertools.islice(_inside(thing), MOST))
    except Exception:
        return []


def _inside(thing: Any) -> Iterable[Any]:
    """Return what `thing` may call, or may hold that it calls."""
    if isinstance(thing, functools.partial):
        return (thing.func, *thing.args, *thing.keywords.values())
    if isinstance(thing, types.MethodType):
        return (thing.__self__, thing.__func__)
    if isinstance(thing, types.BuiltinMethodType):
        return (thing.__self__,)
    if isinstance(thing, types.FunctionType):
        return _of_function(thing)
    if isinstance(thing, weakref.ref):
        return (thing(),)
    if isinstance(thing, types.ModuleType):
        return ()
    if isinstance(thing, dict):  # and no other mapping, whose values may have to be loaded
        return list(thing.values())
    if isinstance(thing, list | tuple | set | frozenset):
        return thing
    return _of_object(thing)


def _of_function(function: types.FunctionType) -> Iterator[Any]:
    for cell in function.__closure__ or ():
        try:
            yield cell.cell_contents
        except ValueError:  # not yet assigned
            continue
    yield from function.__defaults__ or ()
    yield from (function.__kwdefaults__ or {}).values()
    yield from vars(function).values()
    if (function.__module__ or "").partition(".")[0] in OURS:
        return
    names = function.__globals__
    for code in _codes(function.__code__):
        for name in _globals_of(code):
            found = names.get(name)
            yield found
            if isinstance(found, types.ModuleType):  # nets.model(x): what the code names of it
                held = vars(found)
                yield from (held[inner] for inner in code.co_names if inner in held)


@functools.lru_cache(maxsize=4096)  # it takes longer than all the rest
def _globals_of(code: types.CodeType) -> frozenset[str]:
    return frozenset(i.argval for i in dis.get_instructions(code) if i.opname in NAMED)


def _codes(code: types.CodeType) -> Iterator[types.CodeType]:
    """Yield the code of a function, and of those defined in it."""
    yield code
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _codes(constant)


def _of_object(thing: Any) -> Iterator[Any]:
    yield from attributes(thing).values()
    for base in type(thing).__mro__:
        if "__call__" in vars(base):
            yield vars(base)["__call__"]
