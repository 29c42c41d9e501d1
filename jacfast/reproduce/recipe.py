"""How the loss of a phase is gone down: augmentation, precision, optimizer, schedule."""

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.lr_scheduler import CosineAnnealingLR, LRScheduler, OneCycleLR

from jacfast.reproduce.phase import Training
from jacfast.training.process import Loss


def optimizer(training: Training, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    """Return the optimizer of a phase."""
    rate, decay = training.lr, training.weight_decay
    if training.optimizer == "adamw":
        return torch.optim.AdamW(parameters, lr=rate, weight_decay=decay)
    if training.optimizer == "sgd":
        momentum = training.momentum
        return torch.optim.SGD(parameters, lr=rate, momentum=momentum, weight_decay=decay)
    return torch.optim.Adam(parameters, lr=rate)


def scheduler(training: Training, moved: torch.optim.Optimizer, steps: int) -> LRScheduler | None:
    """Return the schedule of a phase of so many steps, stepped after each; None: constant."""
    if training.schedule == "cosine":
        return CosineAnnealingLR(moved, T_max=steps)
    if training.schedule == "one-cycle":
        return OneCycleLR(moved, max_lr=training.lr, total_steps=steps)
    return None


def stepped(training: Training, loss: Loss) -> Loss:
    """Return a loss of batches that are cropped and mirrored first, in the precision of the phase.

    It draws from PyTorch's global generator of the CPU, which `fit` seeds and keeps in its
    checkpoints: a run that was interrupted goes on with the same images.
    """
    half = training.precision == "bfloat16"

    def step(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        if training.crop_padding:
            x = random_crop(x, training.crop_padding)
        if training.horizontal_flip:
            x = random_flip(x)
        if half and x.ndim == 4:  # half a step of a CNN with the channels first is the copies
            x = x.contiguous(memory_format=torch.channels_last)
        lower = half and has_bfloat16(x.device)
        with torch.autocast(x.device.type, torch.bfloat16, enabled=lower):
            return loss(model, x, y)

    return step


def precision(phases: Iterable[Training | None], device: torch.device) -> str | None:
    """Return what products are in where a phase asks for bfloat16; None: none does."""
    if all(phase is None or phase.precision == "float32" for phase in phases):
        return None
    return "bfloat16" if has_bfloat16(device) else "float32"


def has_bfloat16(device: torch.device) -> bool:
    """Tell whether a device has instructions for bfloat16, or none are known to be missing.

    Without them a step takes several times as long as in float32: docs/reproduction.md, 'CIFAR'.
    """
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    known = [has for name, has in torch.cpu.get_capabilities().items() if name.endswith("bf16")]
    return device.type != "cpu" or any(known) or not known


def random_crop(x: Tensor, padding: int) -> Tensor:
    """Return of each image [C, H, W] of x a random crop of that size from it, zeros around it.

    The place, one for all channels, is uniform among the (2 padding + 1)^2 that there are.
    """
    samples, channels, height, width = x.shape
    top, left = torch.randint(2 * padding + 1, (2, samples, 1)).to(x.device)
    rows = (top + torch.arange(height, device=x.device))[:, None, :, None]
    columns = (left + torch.arange(width, device=x.device))[:, None, None, :]
    image = torch.arange(samples, device=x.device)[:, None, None, None]
    channel = torch.arange(channels, device=x.device)[None, :, None, None]
    return F.pad(x, (padding,) * 4)[image, channel, rows, columns]


def random_flip(x: Tensor) -> Tensor:
    """Return the images of x, each mirrored left to right with probability 1/2."""
    mirrored = (torch.rand(len(x)) < 0.5).to(x.device)
    return torch.where(mirrored[:, None, None, None], x.flip(-1), x)
