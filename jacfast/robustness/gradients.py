"""What the gradients at the images look like: is there one, and is it the same in the next call?"""

import torch
from torch import Tensor

from jacfast.attacks.gradient import finite_rows, forward, look
from jacfast.attacks.losses import Criterion
from jacfast.calling import Call, apart, largest, quiet


def gradients(call: Call, x: Tensor, y: Tensor) -> dict[str, Tensor]:
    """Return who has no gradient, who none of the plain cross-entropy, who is drawn anew [N] bool.

    The plain cross-entropy has the cotangent softmax - e_y, which is 0 where p_y rounds to 1 and
    the others to 0; attacks of other toolboxes follow it.
    """
    with quiet(call):
        leaf, logits = forward(call, x)
        margin = Criterion(y).cotangent("margin", logits)
        plain = logits.detach().softmax(dim=1)
        plain = plain.scatter_add(1, y[:, None], -torch.ones_like(plain[:, :1]))
        rows = finite_rows(logits, leaf, torch.stack([margin, plain]))
        again = look(call, x)
    still, saturated = (rows == 0).all(dim=2)
    least = torch.finfo(logits.dtype).eps ** 0.5 * largest(logits)
    return {
        "still": still,
        "saturated": saturated & ~still,
        "drawn": apart(logits, again).amax(dim=1) > least,
    }
