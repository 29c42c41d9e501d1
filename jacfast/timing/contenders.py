"""Who is timed against whom, in groups of those that compute the same."""

import dataclasses
from collections.abc import Callable, Iterator

from jacfast.calling.functions import compiled
from jacfast.penalties.base import Penalty
from jacfast.penalties.frobenius import Frobenius
from jacfast.timing import rivals
from jacfast.timing.ours import one_line, ours
from jacfast.timing.task import Task, shown

# By what `against` calls them.
RIVALS = {
    "one-vector": "one vector by autograd",
    "jacobian-reg": "JacobianReg's form",
    "compiled": "double backward, compiled",
    "one-line": "penalty(logits, x) in the loss",
    "loop": "loop over the classes",
    "foolbox": "DeepFool of foolbox",
}
PLAIN = "plain step"


@dataclasses.dataclass
class Contender:
    """A step to time.

    Attributes:
        group: the title of those that compute the same.
        penalty: what it computes; None: no penalty.
        main: whether it belongs to the group that was asked for.
        compiles: whether its first calls make something for the later ones.
        passes: backward passes of the penalty.
    """

    name: str
    group: str
    penalty: Penalty | None
    run: Callable[[], None]
    main: bool = False
    compiles: bool = False
    passes: int = 0


def contenders(task: Task, against: tuple[str, ...], share: float | None) -> list[Contender]:
    """Return the contenders, the plain step first, then group by group."""
    plain = Contender(PLAIN, "", None, _bound(task, rivals.plain))
    found = [plain, *_main(task, against)]
    if share is not None and not why_no_share(task):
        some = dataclasses.replace(task.penalty, subsample=share)
        group = f"R = {shown(some)}: a random part of each batch"
        found += _backends(task, some, group, main=False)
    if _estimate(task.penalty) and getattr(task.penalty, "n", None) != "exact":
        exact = Frobenius("exact")
        group = f"R = {shown(exact)}: all {task.classes} rows"
        if "loop" in against:
            found.append(_rival(task, "loop", group, exact))
        found += list(_backends(task, exact, group, main=False))[:1]
    return found


def why_no_share(task: Task) -> str:
    """Say why a part of the batch is not timed; an empty string if it can be."""
    if task.coupled:
        return "batch-norm couples the samples: a part of the batch has other statistics"
    if getattr(task.penalty, "root", False):
        return "the root of a part's sum estimates nothing"
    return "" if len(task.x) > 1 else "the batch has one sample"


def missing(task: Task, against: tuple[str, ...]) -> list[str]:
    """Return those rivals by name that compute another penalty than the one asked for."""
    usual = _estimate(task.penalty) and getattr(task.penalty, "n", None) == 1
    out = [] if usual else ["one-vector", "jacobian-reg", "compiled"]
    if not _estimate(task.penalty):
        out.append("loop")
    return [RIVALS[key] for key in out if key in against]


def _main(task: Task, against: tuple[str, ...]) -> Iterator[Contender]:
    penalty, group = task.penalty, f"R = {shown(task.penalty)}"
    n, keys = getattr(penalty, "n", None) if _estimate(penalty) else None, ["one-line"]
    if n == "exact":
        keys = ["loop", *keys]
    elif n == 1:
        keys = ["one-vector", "jacobian-reg", "compiled", *keys]
    for key in keys:
        if key in against:
            yield _rival(task, key, group, penalty, main=True)
    yield from _backends(task, penalty, group, main=True)


def _step(task: Task, key: str) -> rivals.Step:
    """Return a rival's step."""
    if key == "one-line":
        return one_line(task.penalty, batch_norm=task.options["batch_norm"])
    if key == "compiled":
        return rivals.by_math(rivals.compiled_func(task.classes))
    steps = {"one-vector": rivals.one_vector, "jacobian-reg": rivals.jacobian_reg}
    return rivals.by_math({"loop": rivals.loop, **steps}[key])


def _rival(task: Task, key: str, group: str, penalty: Penalty, main: bool = False) -> Contender:
    run, passes = _bound(task, _step(task, key)), _passes(penalty, task.classes)
    return Contender(RIVALS[key], group, penalty, run, main, key == "compiled", passes)


def _backends(task: Task, penalty: Penalty, group: str, main: bool) -> Iterator[Contender]:
    """Yield ours: eager first, then recorded, by each backend that there is on the device."""
    eager = "auto, the model being compiled" if compiled(task.model) else "eager"
    names: dict[str, str | None] = {eager: None, "traced": "traced", "inductor": "inductor"}
    if task.x.is_cuda:
        names["cudagraphs"] = "cudagraphs"
    for name, backend in names.items():
        step = ours(penalty, compiled=backend, **task.options)

        def run(step: rivals.Step = step) -> None:
            step(task.model, task.x, task.y, task.lam)

        passes = _passes(penalty, task.classes)
        yield Contender(f"jacfast, {name}", group, penalty, run, main, backend is not None, passes)


def _bound(task: Task, step: rivals.Step) -> Callable[[], None]:
    return lambda: step(task.called, task.x, task.y, task.lam)


def _passes(penalty: Penalty, classes: int) -> int:
    n = getattr(penalty, "n", 1)
    return classes if n == "exact" else int(n)


def _estimate(penalty: Penalty) -> bool:
    """Say whether it is the mean squared Frobenius norm, which the rivals compute."""
    plain = type(penalty) is Frobenius and penalty.weights is None
    return plain and not penalty.root  # type: ignore[attr-defined]
