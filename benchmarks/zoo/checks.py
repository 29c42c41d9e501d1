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
from torch.nn.attention import SDPBackend, sdpa_kernel

import jacfast
from benchmarks.zoo import oracle
from benchmarks.zoo.architectures import CLASSES, Architecture
from benchmarks.zoo.oracle import Truth, differentiated, error, parameters

EXACT = jacfast.Frobenius("exact")
FLOAT64 = 1e-8  # what float64 may be off
MULTIPLE, LEAST = 10, 1e-6  # float32: so many times PyTorch's own error there, and this
DIFFERENCES = 1e-3  # what finite differences may be off


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
    return max(
        error([penalty], [truth.penalty]) if float(truth.penalty) else 0.0,
        error([logits], [truth.logits]),
        error(got, truth.gradient(lam)),
    )


def frozen(model: nn.Module, x: Tensor, y: Tensor, lam: float) -> float:
    """Return the error of a step in training mode, with running statistics in the penalty."""
    mine, plain = (training(copy.deepcopy(oracle.fresh(model))) for _ in range(2))
    logits, penalty = one_node(mine, x, batch_norm="frozen")
    loss = F.cross_entropy(logits, y) + lam * penalty
    got = torch.autograd.grad(loss, parameters(mine), allow_unused=True)
    with oracle.twice_differentiable():
        loss = F.cross_entropy(oracle.logits_of(plain, x), y)
        of_loss = torch.autograd.grad(loss, parameters(plain), allow_unused=True)
    for module in plain.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.eval()
    of_penalty = differentiated(plain, x, y, (len(x),))[0].of_penalty
    pairs = zip(of_loss, of_penalty, strict=False)
    want = [lam * b + (0 if a is None else a) for a, b in pairs]
    left = [[b.double() for b in net.buffers()] for net in (mine, plain)]
    return max(error(got, want), error(*left) if left[0] else 0.0)


def training(model: nn.Module) -> nn.Module:
    """Put a model in training mode, but for what drops entries or layers."""
    model.train()
    for module in model.modules():
        if "drop" in type(module).__name__.lower() or type(module).__name__ == "StochasticDepth":
            module.eval()
    return model


def rows(model: nn.Module, x: Tensor, truth: Truth) -> float:
    """Return the error of two rows of the Jacobian."""
    return error(
        [jacfast.jacobian(oracle.fresh(model), x, [CLASSES - 1, 0])],
        [truth.rows[:, [CLASSES - 1, 0]]],
    )


def first_step(model: nn.Module, x: Tensor, truth: Truth) -> float:
    """Return the error of DeepFool's first step; a few more must run through."""
    found = jacfast.deepfool(oracle.fresh(model), x, candidates=None, overshoot=0.0, max_iter=1)
    if len(x) > 1:
        jacfast.deepfool(model, x, max_iter=3)
    return error([found.r], [oracle.deepfool_step(truth)])


def stirred(model: nn.Module) -> nn.Module:
    """Make every part of a new network count: no zero weights, no statistics of nothing."""
    generator = torch.Generator().manual_seed(1)
    for p in model.parameters():
        noise = torch.randn(p.shape, generator=generator)
        spread = p[0].numel() ** -0.5 if p.dim() > 1 else 1.0  # as layers are initialised
        p.data += 0.1 * spread * noise
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_var is not None:
            module.running_mean += 0.1 * torch.randn(module.running_mean.shape, generator=generator)
            module.running_var *= 0.5 + torch.rand(module.running_var.shape, generator=generator)
    return model


def swept(architecture: Architecture) -> dict:
    """Run every check on one architecture; return what came out, by check."""
    torch.manual_seed(0)
    warnings.simplefilter("ignore")
    model, shape = architecture.make()
    model = stirred(model).eval()
    generator = torch.Generator().manual_seed(2)
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
    wide = copy.deepcopy(oracle.fresh(model)).double()
    truths = differentiated(wide, x.double(), y, (2, 1))
    lam = truths[0].weight()
    known = oracle.against_differences(wide, x.double(), y, truths[0], lam)
    result["differences"] = list(known)
    if max(known) > DIFFERENCES:
        result["failures"]["truth"] = f"autograd and finite differences are apart by {max(known)}"
    for name, check, allowed in _checks(model, wide, x, y, truths, lam):
        try:
            off = _tried(check, result)
            result["errors"][name] = off
            if "float32" in name:
                result["multiple"] = max(result.get("multiple", 0.0), off / allowed)
            if not off <= allowed:
                result["failures"][name] = f"off by {off:.1e}, of which {allowed:.1e} is allowed"
        except Exception as problem:  # whatever it is, it is the result
            result["failures"][name] = sentence(problem)
    return result


def _tried(check: Callable[[], float], result: dict) -> float:
    """Run a check; where attention asks for its math backend in one line, once more under it."""
    try:
        return check()
    except RuntimeError as problem:
        if "scaled_dot_product" not in str(problem):
            raise
    result["needs math"] = True
    with sdpa_kernel(SDPBackend.MATH):
        return check()


def sentence(problem: Exception) -> str:
    """Return the type of an exception and the first line of what it says."""
    return f"{type(problem).__name__}: {problem}".split("\n")[0][:300]


def _checks(
    model: nn.Module, wide: nn.Module, x: Tensor, y: Tensor, truths: list[Truth], lam: float
) -> Iterator[tuple[str, Callable[[], float], float]]:
    """Yield every check by name, with what it may be off."""
    x64 = x.double()
    laid = (
        copy.deepcopy(oracle.fresh(wide)).to(memory_format=torch.channels_last)
        if x.dim() == 4
        else None
    )
    for truth, own in zip(truths, differentiated(model, x, y, (2, 1)), strict=True):
        n = len(truth.logits)
        narrow = error(own.gradient(lam), truth.gradient(lam))
        narrow = MULTIPLE * max(narrow, error([own.penalty], [truth.penalty])) + LEAST
        nets = [("float64", wide, x64[:n], FLOAT64), ("float32", model, x[:n], narrow)]
        if laid:
            at = x64[:n].to(memory_format=torch.channels_last)
            nets.append(("channels_last", laid, at, FLOAT64))
        for way, function in WAYS.items():
            for name, net, at, most in nets:
                check = functools.partial(gradient, function, net, at, y, truth, lam)
                yield f"{way}, {name}, N = {n}", check, most
        for name, function in (("jacobian", rows), ("deepfool", first_step)):
            yield f"{name}, N = {n}", functools.partial(function, wide, x64[:n], truth), FLOAT64
    yield "training mode, frozen", lambda: frozen(wide, x64, y, lam), FLOAT64
