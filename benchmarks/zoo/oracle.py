"""What is right: plain autograd in float64, itself held against finite differences.

Nothing of the library is used. A sample's derivatives are taken in a batch of two, because
PyTorch's own are wrong for some networks in a batch of one.
"""

import contextlib
import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode

SATURATED = 1e-3  # a cross-entropy below this has a gradient that its own roundings hide


class Plain(TorchFunctionMode):
    """Writes what has no second derivative in PyTorch in operations that have.

    That is hard-sigmoid, and `F.normalize` of zeros.
    """

    met = False  # whether there was one: PyTorch's 1/6 in its derivative is float32's, 3e-8 off

    def __torch_function__(self, func, types, args=(), kwargs=None):
        """Call `func`, or what it is made of."""
        if func in (F.hardsigmoid, torch._C._nn.hardsigmoid):
            Plain.met = True
            return F.relu6(args[0] + 3) / 6
        if func is F.normalize:
            return _normalized(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


def _normalized(x: Tensor, p: float = 2, dim: int = 1, eps: float = 1e-12, out=None) -> Tensor:
    """Return x / max(||x||, eps)."""
    assert (p, out) == (2, None)
    return x / x.square().sum(dim, keepdim=True).clamp_min(eps**2).sqrt()


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
        return balance(self.of_loss, self.of_penalty)


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


def unsaturated(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Return `y`, or the classes that the model thinks least likely if it is all but sure of `y`.

    The gradient of the loss would be 1e-64, say, with which the penalty cannot weigh the same.
    """
    with torch.no_grad():
        logits = logits_of(model, x)
    return logits.argmin(1) if F.cross_entropy(logits, y) < SATURATED else y


def parameters(model: nn.Module) -> list[nn.Parameter]:
    """Return the parameters that are trained."""
    return [p for p in model.parameters() if p.requires_grad]


def size(tensors) -> float:
    """Return the root of the sum of all squares; None counts as zeros."""
    return sum(float(t.double().square().sum()) for t in tensors if t is not None) ** 0.5


def error(got, want) -> float:
    """Return how far lists of tensors are apart, as a share of the second; None counts as zeros."""
    apart = (b if a is None else a.double() - b.double() for a, b in zip(got, want, strict=True))
    return size(apart) / max(size(want), 1e-300)


def worst(*errors: float) -> float:
    """Return the largest error; NaN is the largest of all, which `max` can lose."""
    return max(errors, key=lambda error: (math.isnan(error), error))


def balance(of_loss, of_penalty) -> float:
    """Return the lam with which two lists of gradients weigh the same."""
    return size(of_loss) / max(size(of_penalty), 1e-300)


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
