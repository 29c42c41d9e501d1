"""What runs the graphs of a trace."""

import inspect
from collections.abc import Callable, Sequence
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from jacfast.calling import warn
from jacfast.step.traced.capture import Captured
from jacfast.step.traced.graph import Graph, Value

CONVOLUTION = "aten.convolution.default"
PRODUCTS = ("aten.mm.default", "aten.addmm.default", "aten.bmm.default")
LARGE = 1 << 27  # multiplications of a forward graph
Backend = Literal["traced", "inductor", "cudagraphs", "auto"]
BACKENDS: tuple[str, ...] = get_args(Backend)
Runner = Callable[[list[Tensor]], Sequence[Tensor]]  # empties the list, to free what is in it


def chosen(backend: str, graph: Graph, device: torch.device) -> str:
    """Return which backend "auto" stands for.

    On a GPU the graphs as they are, until the other two have run on one. On a CPU the compiler, but
    where most multiplications are those of large convolutions, which stay in the routines that they
    are in (benchmarks/README.md, 'Small networks').
    """
    if backend != "auto":
        return backend
    convolved, multiplied = _multiplications(graph)
    convolves = convolved > max(multiplied, LARGE)
    return "traced" if convolves or device.type != "cpu" else "inductor"


def _multiplications(graph: Graph) -> tuple[int, int]:
    """Return how many there are in convolutions, and in products of matrices."""
    convolved = multiplied = 0
    for call in graph.calls:
        name = str(call.function)
        if not isinstance(call.results, Value) or name not in (CONVOLUTION, *PRODUCTS):
            continue
        shapes = [one.like.shape for one in call.args if isinstance(one, Value)]
        if name == CONVOLUTION:
            convolved += call.results.like.numel() * shapes[1][1:].numel()
        else:
            multiplied += call.results.like.numel() * shapes[-1][-2]
    return convolved, multiplied


def runner(backend: str, graph: Graph, outside: int) -> Runner:
    """Return what runs a graph by a backend; its first `outside` outputs go outside."""
    if backend == "inductor":
        return Compiled(graph)
    # a gradient that depends on nothing needs no graph
    captured = backend == "cudagraphs" and graph.inputs
    return Captured(graph, outside) if captured else graph.as_function()


class Compiled:
    """A graph compiled by Inductor at its first run, for the tensors of that."""

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self._run: Any = None
        self._constants = list(graph.constants.values())

    def __call__(self, given: list[Tensor]) -> Sequence[Tensor]:
        """Run it without gradients."""
        given += self._constants
        if self._run is None:
            self._run = _compiled(self._graph, given)
        return self._run(given)


def _compiled(graph: Graph, given: list[Tensor]) -> Any:
    """Return the compiled graph; the graph itself, with a warning, if that is not possible."""
    from torch._inductor import compile as inductor

    examples: list[Any] = [tensor.detach() for tensor in given]
    try:
        # random numbers are those of the same operations in eager mode
        run = inductor(graph.as_module(), examples, options={"fallback_random": True})
    except Exception as error:
        warn(
            f"Inductor could not compile the step, which runs as traced ({type(error).__name__}: "
            f"{str(error).splitlines()[0] if str(error) else ''})"
        )
        plain, inputs = graph.as_function(), len(graph.inputs)
        return lambda given: plain(given[:inputs])
    boxed: Any = run
    while _takes_several(boxed) and hasattr(boxed, "__wrapped__"):
        boxed = boxed.__wrapped__
    if getattr(boxed, "_boxed_call", False) and not _takes_several(boxed):
        return boxed  # takes a list, and frees what is in it
    return lambda given: run(*given)


def _takes_several(function: Any) -> bool:
    code = getattr(function, "__code__", None)
    return code is not None and bool(code.co_flags & inspect.CO_VARARGS)
