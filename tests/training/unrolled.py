"""Deep Defense the long way: one sample at a time, every row, all in one graph; and problems."""

import torch
from torch import Tensor, nn

from tests.nets import build


def unrolled_penalty(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    c: float = 25.0,
    d: float = 5.0,
    steps: int = 5,
    overshoot: float = 0.02,
    candidates: int | None = None,
    linked: bool = True,
) -> tuple[Tensor, list[int]]:
    """Return the penalty with its graph, and how many steps each sample took."""
    terms, taken = [], []
    for sample, label in zip(x, y.tolist(), strict=True):
        order = model(sample[None])[0].argsort(descending=True).tolist()
        correct = order[0] == label
        others = [k for k in order if k != label][: candidates - 1 if candidates else None]
        r, count = torch.zeros_like(sample), 0
        while count < steps:
            now = int(model((sample + (1 + overshoot) * r)[None])[0].argmax())
            if (now != label) == correct:
                break
            origin, goals = (label, others) if correct else (now, [label])
            step = nearest_step(model, sample + r, origin, goals, linked)
            if step is None:  # all gradients are zero: it stays where it is
                break
            r = r + step
            count += 1
        rho = (1 + overshoot) * r.flatten().norm() / sample.flatten().norm()
        terms.append(torch.exp(-c * rho if correct else d * rho).clamp(max=50))
        taken.append(count)
    return torch.stack(terms).mean(), taken


def nearest_step(
    model: nn.Module, at: Tensor, origin: int, goals: list[int], linked: bool
) -> Tensor | None:
    at = at if linked and at.requires_grad else at.detach().requires_grad_()
    z = model(at[None])[0]
    rows = [torch.autograd.grad(z_k, at, create_graph=True)[0] for z_k in z]
    best, step = float("inf"), None
    for k in goals:
        f, w = z[k] - z[origin], rows[k] - rows[origin]
        distance = float(f.detach().abs() / w.detach().flatten().norm())
        if distance < best:
            best, step = distance, f.abs() * w / w.square().sum()
    return step


def problem(
    name: str, samples: int = 8, dtype=torch.float64, rank: int = 1
) -> tuple[nn.Module, Tensor, Tensor]:
    """Return a network, a batch, and labels of which every third is the class of that rank."""
    model, x = build(name, samples, dtype)
    z = build(name, samples)[0](x.double())
    order = z.argsort(dim=1, descending=True)
    wrong = torch.arange(samples) % 3 == 0
    return model, x, torch.where(wrong, order[:, rank], order[:, 0])


def gradients(value: Tensor, model: nn.Module) -> list[Tensor]:
    return list(torch.autograd.grad(value, list(model.parameters()), materialize_grads=True))


def two_classes() -> nn.Linear:
    """Return z = (x_0, x_1): the boundary x_0 = x_1 is |x_0 - x_1| / sqrt(2) away."""
    model = nn.Linear(2, 2, bias=False, dtype=torch.float64)
    model.weight.data = torch.eye(2, dtype=torch.float64)
    return model
