"""One training loop: seeded, resumable to the bit, with a progress bar."""

import math
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from tqdm import tqdm

from jacfast.attacks.checks import count
from jacfast.training import checkpoint

Loss = Callable[[nn.Module, Tensor, Tensor], Tensor]


def fit(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    epochs: int,
    batch_size: int,
    lr: float,
    loss: Loss,
    seed: int = 0,
    save: Path | None = None,
    config: checkpoint.Config | None = None,
    resume: bool = False,
    name: str = "fit",
) -> None:
    """Train `model` in place by Adam on shuffled batches of x [N, ...], y [N].

    Shuffling and all that is drawn from the CPU's global generator (dropout, projections) follow
    from `seed`; that generator's state is as before afterwards. With `save` a checkpoint is written
    after every epoch, in one atomic move, and ``resume=True`` continues from it to the same
    weights, bit for bit, as a run that was not interrupted, on the same machine and number of
    threads. For a loss that calls `jacfast.pgd` to be among that, it must draw there, too:
    ``pgd(model, x, y, eps=eps, generator=torch.default_generator)``.

    Args:
        loss: maps (model, x batch, y batch) to the scalar to descend.
        lr: Adam's step size.
        config: what the run depends on; a checkpoint of another one is refused.
        name: the label of the progress bar, and of the phase in the checkpoint.

    Raises:
        FloatingPointError: the loss is not finite. The last checkpoint is intact.
        TypeError, ValueError: epochs is no integer >= 0, batch_size none >= 1, x and y differ in
            length or are empty, or the checkpoint belongs to another configuration.
    """
    count("epochs", epochs, 0)
    count("batch_size", batch_size)
    if len(x) == 0 or len(x) != len(y):
        raise ValueError(f"x and y must be as long, and not empty; got {len(x)} and {len(y)}")
    optimizer = torch.optim.Adam(model.parameters(), lr=lr)
    order = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        done = 0
        if resume and save is not None and save.exists():
            done = checkpoint.restore(save, config, name, model, optimizer, order)
        per_epoch = math.ceil(len(x) / batch_size)
        with tqdm(total=epochs * per_epoch, initial=done * per_epoch, desc=name) as bar:
            for epoch in range(done, epochs):
                for batch in torch.randperm(len(x), generator=order).split(batch_size):
                    value = loss(model, x[batch], y[batch])
                    shown = value.item()
                    if not math.isfinite(shown):
                        raise FloatingPointError(
                            f"loss must stay finite; got {shown} in epoch {epoch + 1} of "
                            f"{name}: lower lr (now {lr}) or the weight of the penalty"
                        )
                    optimizer.zero_grad(set_to_none=True)
                    value.backward()
                    optimizer.step()
                    bar.update()
                    bar.set_postfix(epoch=epoch + 1, loss=f"{shown:.4f}")
                if save is not None:
                    checkpoint.write(save, config, name, epoch + 1, model, optimizer, order)
