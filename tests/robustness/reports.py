"""Networks whose distances are known, and a report whose figures can be counted."""

import math

import torch
from torch import nn

import jacfast
from jacfast.robustness.attacked import Attacked, Choices
from tests.nets import draw, predicted_and_distance

BUDGETS = {"budget": 40, "steps": 10, "restarts": 2}


def linear(p: float, samples: int = 40):
    """Return a linear network, images in [0, 1], labels, and the distance of each boundary.

    The boundaries are far from the edges of the box; the logits differ by several units.
    """
    model = nn.Linear(6, 3).double()
    model.weight.data = 50 * draw(3, 6)
    model.bias.data = -model.weight.data.sum(dim=1) / 2
    x = 0.5 + draw(samples, 6) / 30
    y, far = predicted_and_distance(model, x, p)
    y[::4] = (y[::4] + 1) % 3
    far[::4] = 0
    return model, x, y, far


def shares(far, eps):
    return float((far > eps).double().mean())


def by_hand(p: float = 2.0, clip=None, restarts: int = 1):
    """Return a report of four samples, three of which are right: every figure can be counted."""
    never = torch.zeros(3, 2, dtype=torch.bool)
    scaled = torch.tensor([[True, False], [False, True], [False, True]])
    attacked = Attacked(
        deepfool=torch.tensor([1.0, 3.0, math.inf]).double(),
        minimal=torch.tensor([1.0, 2.0, 4.0]).double(),
        pgd=torch.tensor([2.0, 1.5, math.inf]).double(),
        first=never,
        later=never,
        scaled=scaled,
        still=torch.tensor([True, False, False]),
        saturated=never[:, 0],
        drawn=never[:, 0],
    )
    choices = Choices(p=p, eps=(0.5, 2.0), budget=9, steps=7, restarts=restarts, clip=clip)
    right = torch.tensor([True, False, True, True])
    return jacfast.RobustnessReport(choices, right, 0.25, attacked)
