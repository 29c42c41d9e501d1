"""What training refuses before, or instead of, an error of PyTorch's own."""

from torch import Tensor, nn


def check_trainable(model: nn.Module) -> None:
    """Check that there is something to train."""
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise ValueError("model must have a parameter with requires_grad; all are frozen, or none")


def check_loss(value: object) -> None:
    """Check what a loss function returned."""
    if not isinstance(value, Tensor):
        raise TypeError(f"loss must return a scalar tensor; got {type(value).__name__}")
    if value.numel() != 1:
        raise ValueError(f"loss must return a scalar tensor; got shape {list(value.shape)}")
    if not value.requires_grad:
        raise ValueError("loss must depend on the model's parameters; it returned a constant")
