"""What a hardening begins with, and what is refused before any training."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from jacfast import data, models
from jacfast.calling import check_finite, check_weights, tried
from jacfast.checks import at_least, count, seed
from jacfast.penalties import Frobenius
from jacfast.penalties.checks import check_projections
from jacfast.runs import check_own
from jacfast.step import forward_with_penalty
from jacfast.training.checks import check_trainable
from jacfast.training.mode import set_mode
from jacfast.training.options import Harden

PHASES = {"train": "training.pt", "harden": "checkpoint.pt"}  # and the checkpoint of each


def check_options(run: Harden) -> None:
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


def begun(run: Harden, resume: bool) -> dict[str, str]:
    """Check the folder, which can be written to, as it is held; return the checkpoints by phase."""
    there = {phase: run.out / file for phase, file in PHASES.items()}
    found = {phase: str(file) for phase, file in there.items() if file.exists()}
    if not resume and found:
        raise FileExistsError(
            f"{run.out} holds an earlier run: continue it with --resume, or use another folder"
        )
    if not found:
        check_own(run.out, PHASES["harden"])
    return found


def build(run: Harden) -> nn.Module:
    """Build the model, on its device and in eval mode."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(int(run.seed))
        if run.model is None or run.weights is None:  # neither: check_options() refused one of two
            model: nn.Module = models.tf_tutorial_cnn()
        else:
            model = models.load_factory(run.model)  # may draw buffers that no file holds
            models.load_weights(model, run.weights)
    check_weights(model)
    check_trainable(model)
    return set_mode(model.to(run.device), training=False)


def check_fits(run: Harden, model: nn.Module, split: data.Split) -> None:
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


def check_images(x: Tensor) -> None:
    """Refuse test images by which `rho_adv` would divide by zero."""
    zero = x.flatten(1).eq(0).all(dim=1).nonzero()
    if len(zero):
        raise ValueError(
            "test images must not be all zero (rho_adv divides by ||x||); the image at "
            f"{int(zero[0])} is: leave it out, or take fewer eval_samples"
        )
