"""Every way into the library, on one architecture, against the truth of `oracle`.

A check returns how far it is off, as a share of the truth; what it raises is its sentence.
"""

import copy
import functools
import warnings
from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import jacfast
from benchmarks.zoo import oracle
from benchmarks.zoo.architectures import CLASSES, Architecture
from benchmarks.zoo.differences import against_differences
from benchmarks.zoo.nets import BATCH_NORM, channels_last, stirred, training, widened
from benchmarks.zoo.oracle import Truth, balance, differentiated, error, parameters, worst

EXACT = jacfast.Frobenius("exact")
FLOAT64 = 1e-8  # what float64 may be off
HARD_SIGMOID = 1e-7  # the same where PyTorch's derivative of hard-sigmoid, 3e-8 off, is within
MULTIPLE, LEAST = 10, 1e-6  # float32: so many times PyTorch's own error there, and this
DIFFERENCES = 1e-5  # what finite differences may be off


def one_line(model: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    """Return logits and penalty by the model's own graph."""
    logits = oracle.logits_of(model, x)
    return logits, jacfast.frobenius_penalty(logits, x, "exact")


def one_node(model: nn.Module, x: Tensor, **options) -> tuple[Tensor, Tensor]:
    """Return logits and penalty from `forward_with_penalty`."""
    out, penalty = jacfast.forward_with_penalty(oracle.fresh(model), x, penalty=EXACT, **options)
    return (out if isinstance(out, Tensor) else out.logits), penalty


WAYS = {"one line": one_line, "one node": one_node}


def gradient(
    way: Callable, model: nn.Module, x: Tensor, y: Tensor, truth: Truth, lam: float
) -> float:
    """Return the largest of the errors of the logits, the penalty and the gradient."""
    x = x.detach().clone().requires_grad_()
    logits, penalty = way(model, x)
    loss = F.cross_entropy(logits, y[: len(x)]) + lam * penalty
    got = torch.autograd.grad(loss, [*parameters(model), x], allow_unused=True)
    return worst(
        error([penalty], [truth.penalty]) if float(truth.penalty) else 0.0,
        error([logits], [truth.logits]),
        error(got, truth.gradient(lam)),
    )


def frozen(model: nn.Module, x: Tensor, y: Tensor) -> float:
    """Return the error of a step in training mode, with running statistics in the penalty."""
    mine, plain = (training(copy.deepcopy(oracle.fresh(model))) for _ in range(2))
    with oracle.twice_differentiable():
        loss = F.cross_entropy(oracle.logits_of(plain, x), y)
        of_loss = torch.autograd.grad(loss, parameters(plain), allow_unused=True)
    for module in plain.modules():
        if isinstance(module, BATCH_NORM):
            module.eval()
    of_penalty = differentiated(plain, x, y, (len(x),))[0].of_penalty[:-1]
    lam = balance(of_loss, of_penalty)
    logits, penalty = one_node(mine, x, batch_norm="frozen")
    loss = F.cross_entropy(logits, y) + lam * penalty
    got = torch.autograd.grad(loss, parameters(mine), allow_unused=True)
    pairs = zip(of_loss, of_penalty, strict=True)
    want = [lam * b + (0 if a is None else a) for a, b in pairs]
    left = [[b.double() for b in net.buffers()] for net in (mine, plain)]
    return worst(error(got, want), error(*left) if left[0] else 0.0)


def rows(model: nn.Module, x: Tensor, truth: Truth) -> float:
    """Return the error of two rows of the Jacobian."""
    return error(
        [jacfast.jacobian(oracle.fresh(model), x, [CLASSES - 1, 0])],
        [truth.rows[:, [CLASSES - 1, 0]]],
    )


def first_step(model: nn.Module, x: Tensor, truth: Truth) -> float:
    """Return the error of DeepFool's first step; a few more must run through."""
    found = jacfast.deepfool(oracle.fresh(model), x, candidates=None, overshoot=0.0, steps=1)
    if len(x) > 1:
        jacfast.deepfool(model, x, steps=3)
    return error([found.r], [oracle.deepfool_step(truth)])


def swept(architecture: Architecture) -> dict:
    """Run every check on one architecture; return what came out, by check."""
    torch.manual_seed(0)
    warnings.simplefilter("ignore")
    model, shape = architecture.make()
    generator = torch.Generator().manual_seed(2)
    model = stirred(model, torch.rand(8, *shape, generator=generator)).eval()
    x = torch.rand(2, *shape, generator=generator)
    y = torch.randint(CLASSES, (2,), generator=generator)
    result: dict = {
        "name": architecture.name,
        "kind": architecture.kind,
        "shape": list(shape),
        "parameters": sum(p.numel() for p in model.parameters()),
        "errors": {},
        "failures": {},
    }
    wide = widened(oracle.fresh(model), x)
    y = oracle.unsaturated(wide, x.double(), y)
    truths = differentiated(wide, x.double(), y, (2, 1))
    lam = truths[0].weight()
    known = against_differences(wide, x.double(), y, truths[0], lam)
    result["differences"] = list(known)
    if not (apart := worst(*known)) <= DIFFERENCES:
        result["failures"]["truth"] = f"autograd and finite differences are apart by {apart}"
    for name, check, allowed in _checks(model, wide, x, y, truths, lam):
        try:
            off = check()
            result["errors"][name] = off
            if not off <= allowed and "float32" in name:  # the kinks may lie within a rounding
                aside = [_own_errors(model, x * by, y, truths, lam) for by in (1 + 1e-6, 1 - 1e-6)]
                n = int(name[-1])
                allowed = worst(allowed, *(MULTIPLE * own[n] + LEAST for own in aside))
            if "float32" in name:
                result["multiple"] = worst(result.get("multiple", 0.0), off / allowed)
            if not off <= allowed:
                result["failures"][name] = f"off by {off:.1e}, of which {allowed:.1e} is allowed"
        except Exception as problem:  # whatever it is, it is the result
            result["failures"][name] = sentence(problem)
    return result


def sentence(problem: Exception) -> str:
    """Return the type of an exception and the first line of what it says."""
    return f"{type(problem).__name__}: {problem}".split("\n")[0][:300]


def _own_errors(
    model: nn.Module, x: Tensor, y: Tensor, truths: list[Truth], lam: float
) -> dict[int, float]:
    """Return how far PyTorch's own double backward in float32 is off, by the size of the batch."""
    own = differentiated(model, x, y, (2, 1))
    return {
        len(truth.logits): worst(
            error(mine.gradient(lam), truth.gradient(lam)), error([mine.penalty], [truth.penalty])
        )
        for mine, truth in zip(own, truths, strict=True)
    }


def _checks(
    model: nn.Module, wide: nn.Module, x: Tensor, y: Tensor, truths: list[Truth], lam: float
) -> Iterator[tuple[str, Callable[[], float], float]]:
    """Yield every check by name, with what it may be off."""
    x64 = x.double()
    laid = channels_last(copy.deepcopy(oracle.fresh(wide))) if x.dim() == 4 else None
    most = HARD_SIGMOID if oracle.Plain.met else FLOAT64
    own = _own_errors(model, x, y, truths, lam)
    for n, truth in zip((2, 1), truths, strict=True):
        narrow = MULTIPLE * own[n] + LEAST
        nets = [("float64", wide, x64[:n], most), ("float32", model, x[:n], narrow)]
        if laid:
            at = x64[:n].to(memory_format=torch.channels_last)
            nets.append(("channels_last", laid, at, most))
        for way, function in WAYS.items():
            for name, net, at, allowed in nets:
                check = functools.partial(gradient, function, net, at, y, truth, lam)
                yield f"{way}, {name}, N = {n}", check, allowed
        for name, function in (("jacobian", rows), ("deepfool", first_step)):
            yield f"{name}, N = {n}", functools.partial(function, wide, x64[:n], truth), most
    yield "training mode, frozen", lambda: frozen(wide, x64, y), most
