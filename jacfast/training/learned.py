"""What a loss has of its own to learn: averaged over processes and saved as the model is."""

from typing import Any

import torch
from torch import nn

from jacfast.penalties.learned import learned_by
from jacfast.training.defence import Defence


def learned(loss: Any) -> nn.Module:
    """Return a loss that is a module, or one of the parameters that a Defence's penalty has."""
    if isinstance(loss, nn.Module):
        return loss
    return learned_by(loss.penalty if isinstance(loss, Defence) else None)


def check_trains(optimizer: torch.optim.Optimizer, model: nn.Module, of_loss: nn.Module) -> None:
    """Refuse an optimizer that would leave all, or what the loss learns, as it is.

    Raises:
        ValueError: it has no parameter of the model and `of_loss`, or lacks one of the latter.
    """
    has = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    if not any(id(p) in has for owner in (model, of_loss) for p in owner.parameters()):
        raise ValueError(
            "optimizer must have parameters of model, or of its loss; it has others alone (those "
            "of a copy?), and nothing would be trained"
        )
    for name, parameter in of_loss.named_parameters():
        if parameter.requires_grad and id(parameter) not in has:
            raise ValueError(
                "optimizer must have what the loss learns (lr alone is Adam over the model's "
                f"parameters), or that be frozen (requires_grad_(False)); it lacks {name} of shape "
                f"{list(parameter.shape)}"
            )


def check_optimized(optimizer: torch.optim.Optimizer, model: nn.Module, of_loss: nn.Module) -> None:
    """Refuse parameters that nobody would average over processes, or save.

    Raises:
        ValueError: the optimizer has one that is neither of the model nor `of_loss`.
    """
    known = {id(parameter) for owner in (model, of_loss) for parameter in owner.parameters()}
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            if id(parameter) not in known:
                raise ValueError(
                    "optimizer must have parameters of model, of a loss that is an nn.Module, or "
                    "of a Defence's penalty (nn.Parameter): others would be neither averaged over "
                    f"processes nor saved; got one of shape {list(parameter.shape)} that is in none"
                )
