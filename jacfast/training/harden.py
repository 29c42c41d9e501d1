"""Jacobian regularisation as post-processing, and the proof of its effect."""

import dataclasses
import functools
import json
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from jacfast import data, models
from jacfast.attacks.result import DeepFoolResult
from jacfast.calling import check_finite, check_weights, tried
from jacfast.checks import at_least, count, seed
from jacfast.data.split import on_device
from jacfast.files import write_atomically
from jacfast.json_text import finite
from jacfast.penalties import Frobenius
from jacfast.penalties.checks import check_projections
from jacfast.plots import hardening_figure, png
from jacfast.runs import check_own, held
from jacfast.step import forward_with_penalty
from jacfast.team import Team
from jacfast.training import checkpoint
from jacfast.training.checks import check_trainable
from jacfast.training.fit import fit
from jacfast.training.measure import Measures, measure
from jacfast.training.mode import set_mode
from jacfast.training.options import Harden
from jacfast.training.step_time import time_steps
from jacfast.training.table import page
from jacfast.version import __version__

PHASES = {"train": "training.pt", "harden": "checkpoint.pt"}  # and the checkpoint of each
RESULTS = {"train": "trained.pt", "harden": "hardened.pt"}


def harden(run: Harden, resume: bool = False) -> dict[str, Any]:
    """Train or load a classifier, harden it, measure before and after, and write it all down.

    Hardening is Adam on ``CE + lam * Frobenius(n)`` from the trained weights (Jakubovitz &
    Giryes 2018, section 4, with the squared norm). The model is in eval mode meanwhile: what is
    penalised is the Jacobian of the network as it will be used, without dropout, and with the batch
    statistics, which would couple the samples' Jacobians, left alone.

    Writes ``hardened.pt`` (state_dict), ``trained.pt`` (if it trained), ``figures.json``,
    ``harden.png`` and ``report.html`` (both in one page) into ``run.out``, and after every epoch
    ``training.pt``, while it trains, then ``checkpoint.pt``.

    Args:
        run: the options.
        resume: continue from the checkpoints in ``run.out``, or begin where there are none; the
            weights come out the same, bit for bit, as without an interruption, on the same machine
            and number of threads.

    Under ``torchrun`` the processes share the training, see `fit`; the first one measures and
    writes.

    Returns:
        The figures, as in ``figures.json``; in other processes than the first none.

    Raises:
        FileNotFoundError, TypeError, ValueError, OSError: data, weights, model, options or the
            output folder are not usable, the checkpoints are of other options, another model or
            other data, or another run is at work in the folder; found before any training.
    """
    _check(run)
    team = Team.here()
    with team.together(), held(run.out) if team.rank == 0 else nullcontext():
        team.agree({"options": run.options()})
        begun = team.told(lambda: _begun(run, resume))
        return _harden(run, {name: Path(file) for name, file in begun.items()}, team.rank == 0)


def _harden(run: Harden, begun: dict[str, Path], first: bool) -> dict[str, Any]:
    model = _model(run)
    split = on_device(data.load(run.data), run.device)
    model = models.normalized(model, run.mean, run.std, split).to(run.device)
    config = run.depends(split.checksum)
    for phase, save in begun.items():
        checkpoint.read(save, config, {"name": phase})
    x, y = split.test_x[: run.eval_samples], split.test_y[: run.eval_samples]
    _check_fits(run, model, split)
    _check_images(x)

    seconds = {"train": 0.0}
    if run.model is None:
        start = time.perf_counter()
        _phase(run, model, split, config, "train", first)
        seconds["train"] = time.perf_counter() - start
    before = measure(model, x, y, "before") if first else None
    start = time.perf_counter()
    _phase(run, model, split, config, "harden", first)
    seconds["harden"] = time.perf_counter() - start
    if before is None:  # the first process measures, and writes
        return {}
    after = measure(model, x, y, "after")

    figures: dict[str, Any] = {
        "options": run.options(),
        "data": {"name": split.name, "train": len(split.train_x), "evaluated": len(x)},
        "versions": {"jacfast": __version__, "torch": torch.__version__},
        "seconds": seconds,
        "before": _numbers(before),
        "after": _numbers(after),
    }
    timed = min(run.chunk_size or run.batch_size, run.batch_size)  # no more than fit into memory
    images, labels = split.train_x[:timed], split.train_y[:timed]
    # written before, too: a process that is killed for memory loses no more than the time
    figures["step"] = {"images": len(images), "why": "the run ended before"}
    attacked = _on_cpu(before), _on_cpu(after)
    draw = functools.cache(lambda: png(hardening_figure(x.cpu(), y.cpu(), *attacked)))
    _write(run, figures, draw)
    figures["step"] = time_steps(model, images, labels, run.n)
    _write(run, figures, draw)
    return figures


def _write(run: Harden, figures: dict[str, Any], draw: Callable[[], bytes]) -> None:
    """Write the figures first: they are there even if nothing can be drawn."""
    write_atomically(json.dumps(figures, indent=2).encode(), run.out / "figures.json")
    picture = draw()
    write_atomically(picture, run.out / "harden.png")
    write_atomically(page(figures, picture), run.out / "report.html")


def _on_cpu(measures: Measures) -> DeepFoolResult:
    tensors: dict[str, Any] = {k: v.cpu() for k, v in measures.deepfool.tensors().items()}
    return dataclasses.replace(measures.deepfool, **tensors)


def _check(run: Harden) -> None:
    """Check the options before anything costs time."""
    for name in ("train_epochs", "epochs", "batch_size", "eval_samples"):
        count(name, getattr(run, name))
    if run.chunk_size is not None:
        count("chunk_size", run.chunk_size)
    for name in ("lam", "lr"):
        at_least(name, getattr(run, name), 0)
    seed(run.seed)
    Frobenius(run.n)
    if (run.model is None) != (run.weights is None):
        raise ValueError("model and weights go together: give both, or neither")


def _begun(run: Harden, resume: bool) -> dict[str, str]:
    """Check the folder, which can be written to, as it is held; return the checkpoints by phase."""
    there = {phase: run.out / file for phase, file in PHASES.items()}
    begun = {phase: str(file) for phase, file in there.items() if file.exists()}
    if not resume and begun:
        raise FileExistsError(
            f"{run.out} holds an earlier run: continue it with --resume, or use another folder"
        )
    if not begun:
        check_own(run.out, PHASES["harden"])
    return begun


def _check_images(x: Tensor) -> None:
    zero = x.flatten(1).eq(0).all(dim=1).nonzero()
    if len(zero):
        raise ValueError(
            "test images must not be all zero (rho_adv divides by ||x||); the image at "
            f"{int(zero[0])} is: leave it out, or take fewer eval_samples"
        )


def _model(run: Harden) -> nn.Module:
    """Build the model, on its device and in eval mode."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(int(run.seed))
        if run.model is None or run.weights is None:  # neither: _check() refused one of two
            model: nn.Module = models.tf_tutorial_cnn()
        else:
            model = models.load_factory(run.model)  # may draw buffers that no file holds
            models.load_weights(model, run.weights)
    check_weights(model)
    check_trainable(model)
    return set_mode(model.to(run.device), training=False)


def _check_fits(run: Harden, model: nn.Module, split: data.Split) -> None:
    """Check model and images together, by the gradient of one step on two images."""
    check_projections(run.n, models.check_fits(model, split), "K")
    for name in ("train_x", "test_x"):
        check_finite(name, getattr(split, name))
    x, y = split.train_x[:2].clone(), split.train_y[:2]
    with tried("a step with the penalty on two images"), torch.random.fork_rng(devices=[]):
        penalty = Frobenius(run.n)
        logits, value = forward_with_penalty(model, x, penalty=penalty)
        loss = F.cross_entropy(logits, y) + value
        trained = [p for p in model.parameters() if p.requires_grad]
        torch.autograd.grad(loss, trained, allow_unused=True)


def _phase(
    run: Harden,
    model: nn.Module,
    split: data.Split,
    config: checkpoint.Config,
    name: str,
    first: bool,
) -> None:
    """Train ("train": CE) or harden ("harden": CE + penalty), or take over what is done of it."""
    set_mode(model, training=name == "train")

    def loss(model: nn.Module, xb: Tensor, yb: Tensor) -> Tensor:
        if name == "train":
            return F.cross_entropy(model(xb), yb)
        logits, penalty = forward_with_penalty(
            model, xb, penalty=Frobenius(run.n), chunk_size=run.chunk_size
        )
        return F.cross_entropy(logits, yb) + run.lam * penalty

    fit(
        model,
        split.train_x,
        split.train_y,
        epochs=run.train_epochs if name == "train" else run.epochs,
        batch_size=run.batch_size,
        lr=run.lr,
        loss=loss,
        seed=run.seed,
        save=run.out / PHASES[name],
        config=config,
        resume=True,
        name=name,
    )
    set_mode(model, training=False)
    if not first:
        return
    own = models.bare_model(model).state_dict().items()
    state = {key: value.cpu() if isinstance(value, Tensor) else value for key, value in own}
    checkpoint.save_atomically(state, run.out / RESULTS[name])


def _numbers(measures: Measures) -> dict[str, Any]:
    values = {f.name: getattr(measures, f.name) for f in dataclasses.fields(measures)}
    attack = values.pop("deepfool")
    return values | {
        "fooled": float(attack.success.double().mean()),
        "median_norm": finite(float(attack.norm[attack.success].median())),
        "iterations": float(attack.iterations.double().mean()),
    }
