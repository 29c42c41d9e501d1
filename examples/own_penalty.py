"""A penalty of one's own in five lines: the gradient of the predicted class's logit alone."""

import dataclasses

import torch
import torch.nn.functional as F
from torch import Tensor

import jacfast
from jacfast import data, models


@dataclasses.dataclass(frozen=True)
class TopLogit(jacfast.penalties.Penalty):
    """``mean_i ||dz_c / dx_i||^2``, c the class of the largest logit of sample i."""

    squared = True  # rho is the sum of squares, the default

    def cotangents(self, logits: Tensor, x: Tensor, y: Tensor | None, draw: Tensor | None):
        return F.one_hot(logits.argmax(dim=1), logits.shape[1]).to(logits.dtype)[None]


if __name__ == "__main__":
    digits = data.load(None)
    x, y = digits.train_x[:100], digits.train_y[:100]
    torch.manual_seed(0)
    model = models.seck_c()
    optimizer = torch.optim.Adam(model.parameters())
    for step in range(20):
        logits, penalty = jacfast.forward_with_penalty(model, x, penalty=TopLogit())
        optimizer.zero_grad()
        (F.cross_entropy(logits, y) + 0.01 * penalty).backward()
        optimizer.step()
        if step % 5 == 4:
            print(f"step {step + 1}: penalty {penalty.item():.3f}")

    # the same in the one-line way, and of each sample
    logits = model(x.requires_grad_())
    each = TopLogit(reduction="none")(logits, x)
    print(f"largest of a sample {each.max().item():.3f}, mean {TopLogit()(logits, x).item():.3f}")
