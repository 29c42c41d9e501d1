"""What a module holds of Lightning, and of others that change in every step: not recorded."""

import pytest
import torch

from jacfast import Frobenius
from tests.step.objects import SIMPLE, Net, assert_followed
from tests.step.steps import assert_same, fast
from tests.step.tracing import assert_traced


class Trainer:
    """Of a package that is called like Lightning."""

    def __init__(self) -> None:
        self.current_epoch, self.scale = 0, 1.0


def trainer_of(package: str) -> object:
    return type("Trainer", (Trainer,), {"__module__": package})()


@pytest.mark.parametrize("package", ["lightning_net", "torch_optim", "loggingtools"])
def test_a_package_whose_name_begins_like_another(package):
    model = Net(SIMPLE).double()
    model.held = trainer_of(package)
    assert_followed(model, lambda m: setattr(m.held, "scale", 2.0))


@pytest.mark.parametrize("package", ["lightning.pytorch.trainer", "torch.optim.sgd"])
def test_what_a_trainer_says_is_not_recorded(package):
    model, x = Net(lambda m: 1.0 + m.held.current_epoch).double(), torch.randn(4, 6).double()
    model.held = trainer = trainer_of(package)

    def calls():
        for epoch in range(3):
            trainer.current_epoch = epoch
            got = fast(model, x, None, Frobenius("exact"), compiled="traced")
            assert_same(got, fast(model, x, None, Frobenius("exact")))

    with pytest.warns(UserWarning, match=r"runs eager.*held of a Net.*asked for its current_epoch"):
        calls()
    assert model.held is trainer


def test_a_trainer_that_is_not_asked_may_change():
    model, x = Net(lambda m: 1.0).double(), torch.randn(4, 6).double()
    model.held = trainer_of("lightning.pytorch.trainer")
    for epoch in range(3):
        model.held.current_epoch = epoch
        fast(model, x, None, Frobenius("exact"), compiled="traced")
    assert_traced(model, 1)


def test_a_trainer_that_is_asked_in_vain():
    """By code that catches every error."""

    def read(model):
        try:
            return model.held.scale
        except Exception:
            return 0.5

    model, x = Net(read).double(), torch.randn(4, 6).double()
    model.held = trainer_of("lightning.pytorch.trainer")
    with pytest.warns(UserWarning, match=r"runs eager.*held of a Net.*asked for its scale"):
        got = fast(model, x, None, Frobenius("exact"), compiled="traced")
    assert_same(got, fast(model, x, None, Frobenius("exact")))
