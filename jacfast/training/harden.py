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
from jacfast.attacks.deepfool_result import DeepFoolResult
from jacfast.data.split import on_device
from jacfast.files import write_atomically
from jacfast.json_text import finite
from jacfast.penalties import Frobenius
from jacfast.plots import hardening_figure, png
from jacfast.runs import held
from jacfast.step import forward_with_penalty
from jacfast.team import Team
from jacfast.training import checkpoint, ready
from jacfast.training.fit import fit
from jacfast.training.measure import Measures, measure
from jacfast.training.mode import set_mode
from jacfast.training.options import Harden
from jacfast.training.step_time import time_steps
from jacfast.training.table import page
from jacfast.version import __version__

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
    ready.check_options(run)
    team = Team.here()
    with team.together(), held(run.out) if team.rank == 0 else nullcontext():
        team.agree({"options": run.options()})
        begun = team.told(lambda: ready.begun(run, resume))
        return _harden(run, {name: Path(file) for name, file in begun.items()}, team)


def _harden(run: Harden, begun: dict[str, Path], team: Team) -> dict[str, Any]:
    model = ready.build(run)
    split = on_device(data.load(run.data), run.device)
    model = models.normalized(model, run.mean, run.std, split).to(run.device)
    config = run.depends(split.checksum)
    for phase, save in begun.items():
        checkpoint.read(save, config, {"name": phase})
    x, y = split.test_x[: run.eval_samples], split.test_y[: run.eval_samples]
    ready.check_fits(run, model, split)
    ready.check_images(x)

    seconds, first = {"train": 0.0}, team.rank == 0
    if run.model is None:
        start = time.perf_counter()
        _phase(run, model, split, config, "train", first)
        seconds["train"] = time.perf_counter() - start
    before = None
    if first:
        with team.working():  # in training the others wait
            before = measure(model, x, y, "before")
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
        save=run.out / ready.PHASES[name],
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
