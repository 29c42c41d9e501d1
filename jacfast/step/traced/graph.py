"""A flat graph of calls, as a run has made them: cut in two, and turned into Python or fx."""

import dataclasses
import itertools
import math
import operator
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import torch
from torch import Tensor, fx

T = TypeVar("T")


class Value:
    """A tensor of a run, which each other run computes anew.

    Attributes:
        like: what it was in the run that was recorded, on the meta device.
        device: where it was.
    """

    def __init__(self, tensor: Tensor | None = None) -> None:
        if tensor is not None:
            self.like = torch.empty_like(tensor, device="meta")
            self.device = tensor.device


@dataclasses.dataclass(eq=False)
class Call:
    """A call of an operation, whose arguments may be values.

    Attributes:
        results: one value; or, of an operation that returns several tensors, as many values or
            Nones; None where nothing is returned but an argument.
        acts: whether it does something beside returning its results: writes, or draws.
    """

    function: Callable
    args: tuple
    kwargs: dict[str, Any]
    results: Value | list[Value | None] | None
    acts: bool

    def reads(self) -> Iterator[Value]:
        """Yield the values among the arguments."""
        yield from values((self.args, self.kwargs))

    def makes(self) -> list[Value]:
        """Return the results that are values."""
        several = self.results if isinstance(self.results, list) else [self.results]
        return [value for value in several if value is not None]


@dataclasses.dataclass(eq=False)
class Graph:
    """Calls in their order, from `inputs` to `outputs`, of which some may be None.

    Attributes:
        constants: tensors that are the same in every run.
    """

    inputs: list[Value]
    calls: list[Call]
    outputs: list[Value | None]
    constants: dict[Value, Tensor]

    def needed(self) -> "Graph":
        """Return the graph without calls that nobody needs, and inputs that none reads."""
        wanted, kept = set(self.outputs), []
        for call in reversed(self.calls):
            if call.acts or not wanted.isdisjoint(call.makes()):
                kept.append(call)
                wanted.update(call.reads())
        inputs = [value for value in self.inputs if value in wanted]
        constants = {value: tensor for value, tensor in self.constants.items() if value in wanted}
        return Graph(inputs, kept[::-1], self.outputs, constants)

    def cut(self, place: int, first: int) -> tuple["Graph", "Graph"]:
        """Return the graphs of the calls before `place` and from there on.

        The `first` outputs are those of the former, which returns after them what it makes and the
        latter reads; the latter takes this after the inputs that it reads itself.
        """
        early, late = self.calls[:place], self.calls[place:]
        after = Graph(self.inputs, late, self.outputs[first:], self.constants).needed()
        read = {value for call in after.calls for value in call.reads()} | set(after.outputs)
        made = [value for call in early for value in call.makes()]
        between = [value for value in dict.fromkeys(made) if value in read]
        before = Graph(self.inputs, early, [*self.outputs[:first], *between], self.constants)
        after.inputs += between
        return before.needed(), after

    def as_function(self) -> Callable[[list[Tensor]], tuple]:
        """Return a function of the inputs, which it takes out of the list, to free each in time."""
        names: dict[str, Any] = {}
        own = {value: _bound(names, "k", tensor) for value, tensor in self.constants.items()}
        number = itertools.count()
        own |= {value: f"v{next(number)}" for value in self.inputs}
        lines = [f"{_tuple(own[value] for value in self.inputs)} = given", "given.clear()"]
        last = {value: call for call in self.calls for value in (*call.reads(), *call.makes())}
        keep = {*self.outputs, *self.constants}
        for call in self.calls:
            for value in call.makes():
                own[value] = f"v{next(number)}"
            args = [_text(a, own, names) for a in call.args]
            args += [f"{k}={_text(a, own, names)}" for k, a in call.kwargs.items()]
            line = f"{_bound(names, 'f', call.function)}({', '.join(args)})"
            if isinstance(call.results, list):
                to = _tuple("_" if v is None else own[v] for v in call.results)
                line = f"{to} = {line}"
            elif call.results is not None:
                line = f"{own[call.results]} = {line}"
            lines.append(line)
            done = dict.fromkeys((*call.reads(), *call.makes()))
            done = {v: None for v in done if last[v] is call and v not in keep}
            lines += [f"del {', '.join(own[v] for v in done)}"] if done else []
        lines.append(f"return {_tuple('None' if v is None else own[v] for v in self.outputs)}")
        exec("def run(given):\n" + "\n".join(f"    {line}" for line in lines), names)
        return names["run"]

    def as_module(self) -> fx.GraphModule:
        """Return the graph for a compiler; it takes the inputs and then the constants."""
        graph, nodes = fx.Graph(), dict[Value, fx.Node]()
        for i, value in enumerate((*self.inputs, *self.constants)):
            nodes[value] = graph.placeholder(f"v{i}")
        for call in self.calls:
            args, kwargs = substitute((call.args, call.kwargs), Value, nodes.__getitem__)
            node = graph.call_function(call.function, args, kwargs)
            several = call.results if isinstance(call.results, list) else []
            for i, one in enumerate(several):
                if one is not None:
                    nodes[one] = graph.call_function(operator.getitem, (node, i))
            if isinstance(call.results, Value):
                nodes[call.results] = node
        graph.output(tuple(None if v is None else nodes[v] for v in self.outputs))
        return fx.GraphModule(torch.nn.Module(), graph)


def substitute(argument: Any, kind: type[T], of: Callable[[T], Any]) -> Any:
    """Return an argument with something else for whatever is of a kind in it."""
    if isinstance(argument, kind):
        return of(argument)
    if type(argument) in (list, tuple):
        return type(argument)([substitute(one, kind, of) for one in argument])
    if isinstance(argument, dict):
        return {key: substitute(one, kind, of) for key, one in argument.items()}
    return argument


def values(argument: Any) -> Iterator[Value]:
    """Yield the values in an argument."""
    return within(argument, Value)


def within(argument: Any, kind: type[T]) -> Iterator[T]:
    """Yield what is of a kind in an argument, at whatever depth of lists, tuples and dicts."""
    if isinstance(argument, kind):
        yield argument
    elif isinstance(argument, list | tuple):
        for one in argument:
            yield from within(one, kind)
    elif isinstance(argument, dict):
        yield from within(list(argument.values()), kind)


def _text(argument: Any, own: dict[Value, str], names: dict[str, Any]) -> str:
    """Return an argument as Python, with a name for what has no other text."""
    if isinstance(argument, Value):
        return own[argument]
    if type(argument) is list:
        return f"[{', '.join(_text(one, own, names) for one in argument)}]"
    if type(argument) is tuple:
        return _tuple(_text(one, own, names) for one in argument)
    exact = type(argument) is float and math.isfinite(argument)
    if argument is None or exact or type(argument) in (bool, int, str):
        return repr(argument)
    return _bound(names, "c", argument)


def _tuple(texts: Any) -> str:
    return f"({''.join(f'{text}, ' for text in texts)})"


def _bound(names: dict[str, Any], kind: str, thing: Any) -> str:
    """Return the name of `thing` among the globals of the function to be."""
    for name, known in names.items():
        if known is thing:
            return name
    name = f"{kind}{len(names)}"
    names[name] = thing
    return name
