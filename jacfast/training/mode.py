"""Train and eval mode of whatever module a user has."""

from torch import nn


def set_mode(model: nn.Module, *, training: bool) -> nn.Module:
    """Return `model`, put in train or eval mode by its own method, if that is for it.

    What `torch.export` makes refuses the method: it does as it was exported, and its flags are set
    for what reads them.
    """
    try:
        return model.train(training)
    except NotImplementedError:
        for module in model.modules():
            module.training = training
        return model
