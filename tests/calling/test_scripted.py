"""Scripted, traced, frozen, exported and quantised modules."""

import copy
import warnings

import pytest
import torch
from torch import nn

import jacfast
from jacfast import evaluation
from jacfast.calling import check_weights
from tests.nets import draw

X = draw(6, 6).float()
Y = torch.arange(6) % 4
pytestmark = pytest.mark.filterwarnings("ignore")


def network() -> nn.Sequential:
    torch.manual_seed(0)
    layers = [nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.ReLU(), nn.Linear(8, 4)]
    return nn.Sequential(*layers).eval()


def exported(model: nn.Module) -> nn.Module:
    batch = torch.export.Dim("batch", min=1, max=64)
    return torch.export.export(model, (X,), dynamic_shapes=({0: batch},)).module()


MAKE = {
    "scripted": torch.jit.script,
    "traced": lambda model: torch.jit.trace(model, X),
    "frozen": lambda model: torch.jit.freeze(torch.jit.script(model)),
    "optimised": lambda model: torch.jit.optimize_for_inference(torch.jit.script(model)),
    "exported": exported,
}


@pytest.mark.parametrize("around", [lambda m: m, lambda m: lambda x: m(x)], ids=["", "function"])
@pytest.mark.parametrize("make", MAKE.values(), ids=MAKE)
def test_as_the_module_it_was_made_of(make, around):
    plain = network()
    model = around(make(copy.deepcopy(plain)))
    found, want = jacfast.deepfool(model, X), jacfast.deepfool(plain, X)
    torch.testing.assert_close(found.r, want.r, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(jacfast.jacobian(model, X), jacfast.jacobian(plain, X))
    assert evaluation.accuracy(model, X, Y) == evaluation.accuracy(plain, X, Y)


def test_in_training_mode_they_are_put_in_eval_mode():
    plain = network()
    for make in (torch.jit.script, lambda model: torch.jit.trace(model, X)):
        model = make(copy.deepcopy(plain)).train()
        torch.testing.assert_close(jacfast.jacobian(model, X), jacfast.jacobian(plain, X))
        assert all(module.training for module in model.modules())


def test_quantised_weights_are_measured():
    model = torch.ao.quantization.quantize_dynamic(network(), {nn.Linear}, torch.qint8)
    assert 0 <= evaluation.accuracy(model, X, Y) <= 1
    with pytest.raises(ValueError, match="do not depend on x"):
        jacfast.jacobian(model, X)


def test_parameters_that_cannot_be_switched_stay():
    class Computed(nn.Module):
        """With a weight that is no leaf, as meta-learning has them."""

        def __init__(self) -> None:
            super().__init__()
            self.base = nn.Parameter(draw(4, 6).float())
            self.__dict__["weight"] = self.base * 2

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x @ self.weight.T

    model = Computed()
    del model.__dict__["weight"]
    model._parameters["weight"] = model.base * 2
    torch.testing.assert_close(jacfast.jacobian(model, X)[0], 2 * model.base.detach())
    assert model.base.grad is None
    assert model.base.requires_grad


def test_parameters_of_inference_mode():
    with torch.inference_mode():
        made = nn.Linear(6, 4)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert 0 <= evaluation.accuracy(made, X, Y) <= 1


@pytest.mark.parametrize("make", [exported, lambda m: torch.jit.trace(m, X, check_trace=False)])
def test_programs_made_in_training_mode_are_told(make):
    model = make(network().train())
    with pytest.warns(UserWarning, match="traced or exported in training mode, and its batch_norm"):
        evaluation.accuracy(model, X, Y)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        evaluation.accuracy(make(network()), X, Y)
    assert not [w for w in caught if "training mode" in str(w.message)]


def test_weights_of_any_kind_are_looked_at():
    quantised = torch.ao.quantization.quantize_dynamic(network(), {nn.Linear}, torch.qint8)
    check_weights(quantised)
    check_weights(nn.LazyLinear(3))
    model = nn.Linear(4, 3)
    model.weight = nn.Parameter(model.weight.to(torch.float8_e4m3fn), requires_grad=False)
    check_weights(model)
    model.weight.data[0, 0] = torch.tensor(torch.nan)
    with pytest.raises(ValueError, match=r"parameter weight must be finite; 1 of its 12"):
        check_weights(model)
