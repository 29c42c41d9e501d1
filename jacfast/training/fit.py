"""One training loop: seeded, resumable to the bit, with a progress bar."""

import math
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import torch
from torch import Tensor, nn

from jacfast.attacks.checks import at_least, count
from jacfast.progress import watch
from jacfast.runs import alone, checksum
from jacfast.training import checkpoint
from jacfast.training.checks import check_loss, check_seed, check_trainable
from jacfast.training.seeded import seeded

PROBED = 64  # inputs, over all of x, at which a resumed model must do as it did
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
    save: Path | str | None = None,
    config: checkpoint.Config | None = None,
    resume: bool = False,
    name: str = "fit",
) -> None:
    """Train `model` in place by Adam on shuffled batches of x and y.

    Shuffling and all that is drawn from PyTorch's global generators (dropout, projections) follow
    from `seed`; those of the CPU and of the GPUs that hold `model` are seeded, and their states are
    as before afterwards. With `save` a checkpoint is written after every epoch, in one atomic move,
    and ``resume=True`` continues from it to the same weights, bit for bit, as a run that was not
    interrupted, on the same machine and number of threads; on a GPU only as far as its kernels
    repeat themselves (``torch.use_deterministic_algorithms``). For a loss that calls `jacfast.pgd`
    to be among that, it must draw there, too: ``pgd(model, x, y, eps=eps,
    generator=torch.default_generator)``; on a GPU one of ``torch.cuda.default_generators``.

    Args:
        model: in the mode, on the device and of the dtype in which it is to be trained.
        x: [N, ...], inputs of that device and dtype, N >= 1; batches are ``x[i]``, [B, ...].
        y: [N, ...], whatever `loss` takes; for `Defence`, [N] int64 labels on the device of x.
        epochs: passes over x, >= 0, those in the checkpoint counted.
        batch_size: samples of a step, >= 1; the last step of an epoch has what is left.
        lr: Adam's step size, finite and >= 0.
        loss: maps (model, x batch, y batch) to the scalar to descend.
        seed: of the order and of all that is drawn; an integer that `torch.manual_seed` takes.
        save: the file of the checkpoint, in a folder that exists.
        config: what the run depends on beside lr, batch_size, seed, name and the number of samples;
            a checkpoint in which any of these differs is refused. Values: str, int, float, bool or
            None, and no type derived of these.
        resume: continue from `save`, or begin if there is no such file.
        name: the label of the progress bar.

    Raises:
        FloatingPointError: the loss is not finite. The last checkpoint is intact.
        FileExistsError: `save` is there and is not to be resumed.
        TypeError, ValueError: epochs, batch_size, lr, seed, config or what `loss` returns is not as
            above; no parameter of `model` requires grad; x and y differ in length or are empty;
            `save` has no folder, is no checkpoint, belongs to another run or network, or holds more
            epochs; or there is none to resume.
    """
    count("epochs", epochs, 0)
    count("batch_size", batch_size)
    batch_size = int(batch_size)  # of NumPy, too
    at_least("lr", lr, 0)
    seed = check_seed(seed)
    if len(x) == 0 or len(x) != len(y):
        raise ValueError(f"x and y must be as long, and not empty; got {len(x)} and {len(y)}")
    check_trainable(model)
    checkpoint.check_config(config)
    path = checkpoint.path_of(save, resume)
    run: checkpoint.Config = {"name": name, "lr": float(lr), "batch_size": batch_size}
    run |= {"seed": seed, "len(x)": len(x)} | _given(model, y)
    probe = x[:: -(-len(x) // PROBED)]
    optimizer = torch.optim.Adam(model.parameters(), lr=float(lr))
    order = torch.Generator().manual_seed(seed)
    lock = alone(path.with_name(f".{path.name}.lock"), f"save {path}") if path else nullcontext()
    with lock, seeded(model, seed) as drawn:
        done, generators = 0, [order, *drawn]
        if path is not None and path.exists():
            state = checkpoint.read(path, config, run)
            done = state["epoch"]
            if done > epochs:
                raise ValueError(f"epochs must be >= {done}, as in {path}; got {epochs}")
            checkpoint.restore(path, state, model, optimizer, generators, probe)
        per_epoch = math.ceil(len(x) / batch_size)
        with watch(total=epochs * per_epoch, initial=done * per_epoch, desc=name) as bar:
            for epoch in range(done, epochs):
                for batch in torch.randperm(len(x), generator=order).split(batch_size):
                    value = loss(model, x[batch], y[batch])
                    check_loss(value)
                    shown = value.item()
                    if not math.isfinite(shown):
                        raise FloatingPointError(
                            f"loss must stay finite; got {shown} in epoch {epoch + 1} of "
                            f"{name}: lower lr (now {lr}) or the weight of the penalty"
                        )
                    optimizer.zero_grad(set_to_none=True)
                    value.backward()
                    optimizer.step()
                    bar.set_postfix(epoch=epoch + 1, loss=f"{shown:.4f}", refresh=False)
                    bar.update()
                if path is not None:
                    state = checkpoint.state_of(model, optimizer, generators, probe)
                    checkpoint.write(path, config, run, epoch + 1, state)


def _given(model: nn.Module, y: Tensor) -> checkpoint.Config:
    """Return what else a run depends on, of what it is given."""
    modes = {module.training for module in model.modules()}
    mode = "some modules in each" if len(modes) > 1 else "train" if model.training else "eval"
    frozen = [name for name, value in model.named_parameters() if not value.requires_grad]
    found: checkpoint.Config = {"mode": mode, "y": checksum([("y", y)])}
    return found | {"frozen": ", ".join(frozen)}
