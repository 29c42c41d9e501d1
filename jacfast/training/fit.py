"""One training loop: seeded, resumable to the bit, with a progress bar."""

import functools
from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from jacfast import checks
from jacfast.progress import watch
from jacfast.runs import alone
from jacfast.team import Team
from jacfast.training import checkpoint
from jacfast.training.checks import check_trainable
from jacfast.training.descent import Descent
from jacfast.training.given import Interval, batches_of, check_total_steps, optimizer_of
from jacfast.training.learned import check_optimized, check_trains, learned
from jacfast.training.moving import Moving
from jacfast.training.process import Loss, Process, processes
from jacfast.training.seeded import seeded
from jacfast.training.settings import begun_with, settings


def fit(
    model: nn.Module,
    x: Tensor | Iterable[Any],
    y: Tensor | None = None,
    *,
    epochs: int,
    loss: Loss,
    batch_size: int | None = None,
    lr: float | None = None,
    optimizer: torch.optim.Optimizer | None = None,
    scheduler: LRScheduler | None = None,
    scheduler_interval: Interval = "epoch",
    seed: int = 0,
    save: Path | str | None = None,
    config: checkpoint.Config | None = None,
    resume: bool = False,
    name: str = "fit",
) -> None:
    """Train `model` in place, by Adam on shuffled batches of x and y or as one chooses.

    Shuffling and all that is drawn from PyTorch's global generators (dropout, projections) follow
    from `seed`; those of the CPU and of the GPUs that hold `model` are seeded, and their states are
    as before afterwards. With `save` a checkpoint is written after every epoch, in one atomic move,
    and ``resume=True`` continues from it to the same weights, bit for bit, as a run that was not
    interrupted, on the same machine and number of threads; on a GPU only as far as its kernels
    repeat themselves (``torch.use_deterministic_algorithms``). For a loss that calls `jacfast.pgd`
    to be among that, it must draw there, too: ``pgd(model, x, y, eps=eps,
    generator=torch.default_generator)``; on a GPU one of ``torch.cuda.default_generators``.

    Under ``torchrun``, or in an initialised group of torch.distributed, each process computes a
    part of every batch, by DistributedDataParallel, and all follow the trajectory of one process to
    rounding: each calls this with the same arguments, but for the device. `loss` must be a mean
    over samples (`Defence` is). Drawn for the whole batch are the projections of the penalties and,
    outside compiled models and checkpoints, dropout by nn.Dropout, its kin of 1 to 3 dimensions and
    their functions, of [n, ...] or [n * t, ...], n the samples that the model is called on, and
    ``bernoulli_(p)`` of [n, ...] (dropped paths): in calls on all of a process's samples, and in
    those of a `Defence` (but for an attack on a share of the samples and, with
    ``penalise="attacked"`` and no twins, the call on the rest of the batch). All else that is drawn
    (dropout inside attention or an LSTM, AlphaDropout, noise, random starts of an attack) each
    process draws by itself, independently of the others, and the same again where it is resumed.
    What cannot be the same, beside these: batch-norm in training mode (statistics of a part),
    ``subsample`` < 1. Buffers are those of the first process, which writes checkpoints, from which
    any number of processes goes on. What stops one stops all, with its words (over NCCL the others
    are stopped by torchrun, without).

    Args:
        model: in the mode, on the device and of the dtype in which it is to be trained.
        x: [N, ...], inputs of that device and dtype, N >= 1; batches are ``x[i]``, [B, ...]. Or a
            DataLoader, or any iterable of batches that can be gone through again: (x, y), or
            mappings as for `jacfast.deepfool_to_disk`; they are moved to the device of the model.
            Its order is its own: what it draws from the global generators or from the ``generator``
            of its own or of its samplers is resumed, too, and so is what its workers draw, which
            begin anew in each epoch (persistent ones are refused beside `save`). Which data it
            holds is not compared.
        y: [N, ...], whatever `loss` takes; for `Defence`, [N] int64 labels on the device of x. None
            for a DataLoader.
        epochs: passes over x, >= 0, those in the checkpoint counted.
        loss: maps (model, x batch, y batch) to the scalar to descend; a `Defence` is told the
            number of the step, from 0, for a `Schedule` or a penalty with ``every``. What it learns
            itself, if it is an nn.Module, or the penalty of a `Defence` (``weights`` of
            `Frobenius`, say, as an nn.Parameter), is averaged and saved with the model, a module as
            a whole, frozen parts too; `optimizer` must have what is not frozen of it.
        batch_size: samples of a step, >= 1; the last step of an epoch has what is left. Not for a
            DataLoader, which has its own.
        lr: Adam's step size, finite and >= 0; not beside `optimizer`.
        optimizer: another than Adam, over parameters of the model and of `loss`; LBFGS and others
            whose ``step`` must have a closure evaluate the loss several times; the others find the
            gradients there, as do their hooks before the step.
        scheduler: of the learning rate, over `optimizer`: stepped after every epoch, or after every
            step (``scheduler_interval="step"``); ReduceLROnPlateau sees the mean loss of the
            epoch, over its samples, and is for epochs alone. One whose step takes anything else, or
            that ends before the run, is refused.
        seed: of the order and of all that is drawn; an integer that `torch.manual_seed` takes.
        save: the file of the checkpoint, in a folder that exists. It can hold tensors, Python's
            numbers (float64 and integers of NumPy become such), words and containers of these;
            what else a state_dict has is refused, before a step if it is there by then. To write
            it leaves the run as it is.
        config: what the run depends on beside lr, batch_size, seed, name, the number of samples and
            the options of `optimizer` and `scheduler` (which a checkpoint brings back, so that
            others would be ignored); a checkpoint in which any of these differs is refused. Values:
            str, int, float, bool or None, and no type derived of these.
        resume: continue from `save`, or begin if there is no such file.
        name: the label of the progress bar.

    Raises:
        ConnectionAbortedError, TimeoutError: of several processes another one has stopped, with
            its words, or nothing is heard of it for half an hour.
        FloatingPointError: the loss is not finite. The last checkpoint is intact.
        FileExistsError: `save` is there and is not to be resumed.
        TypeError, ValueError: epochs, batch_size, lr, seed, config or what `loss` returns is not as
            above; no parameter of `model` requires grad; `optimizer` has none of them, nor of
            `loss`, or lacks what `loss` learns; x and y differ in length or are empty;
            `save` has no folder, is no checkpoint, belongs to another run or network, or holds more
            epochs; or there is none to resume; or the processes are not given the same, or are
            joined by nothing but WORLD_SIZE.
    """
    checks.count("epochs", epochs, 0)
    seed = checks.seed(seed)
    batches = batches_of(model, x, y, batch_size, seed, saved=save is not None)
    given = optimizer is not None
    optimizer = optimizer_of(model, lr, optimizer, scheduler, scheduler_interval)
    check_total_steps(scheduler, scheduler_interval, epochs, batches.steps)
    check_trainable(model)
    of_loss = learned(loss)
    check_trains(optimizer, model, of_loss)
    checkpoint.check_config(config)
    resume = checks.flag("resume", resume)
    path = checkpoint.path_of(save, resume)
    if path is not None or Team.here().size > 1:
        check_optimized(optimizer, model, of_loss)
    run: checkpoint.Config = {"name": name, "seed": seed, **batches.about(), **_given(model)}
    run["lr"] = None if lr is None else float(lr)
    run["optimizer"] = type(optimizer).__name__
    run["scheduler"] = None if scheduler is None else type(scheduler).__name__
    states = None if scheduler is None else scheduler.state_dict()
    told = settings(optimizer.param_groups, states) if given else {}
    run_here = {
        **run,
        **told,
        **(config or {}),
        "a checkpoint is there": bool(path and path.exists()),
    }
    with (
        processes(model, loss, run_here, batches.data) as process,
        _lock(path, process),
        seeded(model, seed) as drawn,
    ):
        done, step, moving = 0, 0, Moving(model, of_loss, optimizer, scheduler, batches, drawn)
        generators, descent = [*drawn, *batches.generators], Descent(optimizer)
        checkpoint.content(moving.told() if path else None)  # before a step, not after an epoch
        if path is not None and path.exists():
            state = checkpoint.read(path, config, run)
            told = begun_with(path, told, state)
            done = state["epoch"]
            if done > epochs:
                raise ValueError(f"epochs must be >= {done}, as in {path}; got {epochs}")
            moving.restore(path, state)
            step = state["step"]
        steps = batches.steps
        total = None if steps is None else epochs * steps
        hidden = process.rank > 0
        with watch(total=total, initial=done * (steps or 0), desc=name, disable=hidden) as bar:
            for epoch in range(done, epochs):
                total_loss, samples = 0.0, 0
                for xb, yb in batches.epoch():
                    losses = functools.partial(process.losses, xb, yb, step)
                    value = descent.step(losses, epoch + 1, name)
                    total_loss, samples = total_loss + value * len(xb), samples + len(xb)
                    step += 1
                    process.stepped(generators)
                    if scheduler is not None and scheduler_interval == "step":
                        scheduler.step()
                    bar.set_postfix(epoch=epoch + 1, loss=f"{value:.4f}", refresh=False)
                    bar.update()
                if scheduler is not None and scheduler_interval == "epoch":
                    if isinstance(scheduler, ReduceLROnPlateau):
                        scheduler.step(total_loss / samples)
                    else:
                        scheduler.step()
                if path is not None and process.rank == 0:
                    about = {"config": config, "run": {**run, **told}}
                    passed = {"epoch": epoch + 1, "step": step}
                    checkpoint.save_atomically({**about, **passed, **moving.state()}, path)


def _lock(path: Path | None, process: Process) -> AbstractContextManager:
    if path is None or process.rank > 0:
        return nullcontext()
    return alone(path.with_name(f".{path.name}.lock"), f"save {path}")


def _given(model: nn.Module) -> checkpoint.Config:
    """Return what else a run depends on, of what it is given."""
    modes = {module.training for module in model.modules()}
    mode = "some modules in each" if len(modes) > 1 else "train" if model.training else "eval"
    frozen = [name for name, value in model.named_parameters() if not value.requires_grad]
    return {"mode": mode, "frozen": ", ".join(frozen)}
