"""What is right: plain autograd in float64, itself held against finite differences.

Nothing of the library is used. A sample's derivatives are taken in a batch of two, because
PyTorch's own are wrong for some networks in a batch of one.
"""

import contextlib
from collections.abc import Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode


class Plain(TorchFunctionMode):
    """Writes hard-sigmoid, which has no second derivative in PyTorch, in operations that have."""

    met = False  # whether there was one: PyTorch's 1/6 in its derivative is float32's, 3e-8 off

    def __torch_function__(self, func, types, args=(), kwargs=None):
        """Call `func`, or what it is made of."""
        if func in (F.hardsigmoid, torch._C._nn.hardsigmoid):
            Plain.met = True
            return F.relu6(args[0] + 3) / 6
        return func(*args, **(kwargs or {}))


@contextlib.contextmanager
def twice_differentiable() -> Iterator[None]:
    """Run PyTorch where every operation that has a second derivative gives it."""
    with sdpa_kernel(SDPBackend.MATH), Plain(), torch.enable_grad():
        yield


class Truth(NamedTuple):
    """Logits, Jacobian, mean ||J||_F^2, and the gradients of cross-entropy and of that."""

    logits: Tensor  # [N, K]
    rows: Tensor  # [N, K, ...]
    penalty: Tensor
    of_loss: list[Tensor]  # in each parameter, then in x
    of_penalty: list[Tensor]

    def gradient(self, lam: float) -> list[Tensor]:
        """Return the gradient of cross-entropy + lam * penalty."""
        return [a + lam * b for a, b in zip(self.of_loss, self.of_penalty, strict=True)]

    def weight(self) -> float:
        """Return the lam with which both parts weigh the same."""
        return size(self.of_loss) / max(size(self.of_penalty), 1e-300)


def fresh(model: nn.Module) -> nn.Module:
    """Let a model forget what it keeps of forward passes in eval mode (levit: biases)."""
    return model if model.training else model.train().eval()


def logits_of(model: nn.Module, x: Tensor) -> Tensor:
    """Return the logits, out of an object that holds them too."""
    out = fresh(model)(x)
    return out if isinstance(out, Tensor) else out.logits


def differentiated(model: nn.Module, x: Tensor, y: Tensor, counts: tuple[int, ...]) -> list[Truth]:
    """Return the truth of the first samples of `x`, for each count of them."""
    truths = []
    with twice_differentiable():
        x = x.detach().clone().requires_grad_()
        of = [*parameters(model), x]
        logits = logits_of(model, x)
        rows = torch.stack(
            [torch.autograd.grad(z.sum(), x, create_graph=True)[0] for z in logits.unbind(1)], dim=1
        )
        for n in counts:
            penalty = rows[:n].square().sum() / n
            parts = [
                _gradient(value, of, n) for value in (F.cross_entropy(logits[:n], y[:n]), penalty)
            ]
            truths.append(Truth(logits.detach()[:n], rows.detach()[:n], penalty.detach(), *parts))
    return truths


def _gradient(value: Tensor, of: list[Tensor], count: int) -> list[Tensor]:
    """Return the gradient in each of `of`, zeros where there is none, in x of its first samples."""
    found: tuple = (None,) * len(of)
    if value.requires_grad:
        found = torch.autograd.grad(value, of, retain_graph=True, allow_unused=True)
    whole = [torch.zeros_like(t) if g is None else g for g, t in zip(found, of, strict=True)]
    return [*whole[:-1], whole[-1][:count]]


def parameters(model: nn.Module) -> list[nn.Parameter]:
    """Return the parameters that are trained."""
    return [p for p in model.parameters() if p.requires_grad]


def size(tensors) -> float:
    """Return the root of the sum of all squares; None counts as zeros."""
    return sum(float(t.double().square().sum()) for t in tensors if t is not None) ** 0.5


def error(got, want) -> float:
    """Return how far lists of tensors are apart, as a share of the second."""
    apart = [None if a is None else a.double() - b.double() for a, b in zip(got, want, strict=True)]
    missing = [b for a, b in zip(got, want, strict=True) if a is None]
    return (size(apart) ** 2 + size(missing) ** 2) ** 0.5 / max(size(want), 1e-300)


def against_differences(
    model: nn.Module, x: Tensor, y: Tensor, truth: Truth, lam: float
) -> tuple[float, float]:
    """Return how far the truth is from finite differences.

    First J along a direction of x, then the gradient along a direction of the parameters. The
    penalty of a piecewise linear network jumps, so of three steps the best counts.
    """
    generator = torch.Generator().manual_seed(5)
    u = torch.randn(x.shape, dtype=x.dtype, generator=generator)
    along = (truth.rows * u[:, None]).flatten(2).sum(2)
    first = []
    for step in (1e-3, 1e-5, 1e-7):
        with torch.no_grad():
            ahead, behind = (logits_of(model, x + s * u) for s in (step, -step))
        first.append(error([along], [(ahead - behind) / (2 * step)]))
    u = [
        torch.randn(p.shape, dtype=p.dtype, generator=generator) * p.detach().abs().mean()
        for p in parameters(model)
    ]
    along = sum(float((g * d).sum()) for g, d in zip(truth.gradient(lam), u, strict=False))
    second = []
    for step in (1e-6, 1e-8, 1e-10):
        measured = _slope(model, x, y, lam, u, step)
        second.append(abs(along - measured) / max(abs(measured), 1e-300))
        if second[-1] < 1e-5:
            break
    return min(first), min(second)


def _slope(model: nn.Module, x: Tensor, y: Tensor, lam: float, u: list, step: float) -> float:
    """Return the slope of the penalised loss along the direction `u` of the parameters."""
    values = []
    for way in (step, -2 * step, step):  # ahead, behind, and back
        for p, direction in zip(parameters(model), u, strict=True):
            p.data.add_(direction, alpha=way)
        if len(values) < 2:
            values.append(_loss(model, x, y, lam))
    return (values[0] - values[1]) / (2 * step)


def _loss(model: nn.Module, x: Tensor, y: Tensor, lam: float) -> float:
    with twice_differentiable():
        x = x.detach().clone().requires_grad_()
        logits = logits_of(model, x)
        rows = [torch.autograd.grad(z.sum(), x, retain_graph=True)[0] for z in logits.unbind(1)]
    penalty = sum(float(row.square().sum()) for row in rows) / len(x)
    return float(F.cross_entropy(logits.detach(), y)) + lam * penalty


def deepfool_step(truth: Truth) -> Tensor:
    """Return DeepFool's first step [N, ...]: onto the nearest linearised boundary."""
    steps = []
    for z, rows in zip(truth.logits, truth.rows, strict=True):
        leave = int(z.argmax())
        best, step = float("inf"), torch.zeros_like(rows[0])
        for k in range(len(z)):
            w = rows[k] - rows[leave]
            if k != leave and float((z[leave] - z[k]) / w.norm()) < best:
                best = float((z[leave] - z[k]) / w.norm())
                step = best * w / w.norm()
        steps.append(step)
    return torch.stack(steps)
