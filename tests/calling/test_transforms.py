"""Attacks and measures inside torch.inference_mode and transforms of torch.func."""

import pytest
import torch

import jacfast
from jacfast import evaluation
from tests.nets import build, draw


def test_measures_without_gradients_run_in_inference_mode():
    model, x = build("conv_batch_norm", 6)
    y, found = torch.arange(6) % 5, jacfast.deepfool(model, x)
    plane = evaluation.plane(draw(*x.shape[1:]), draw(*x.shape[1:], seed=2))
    calls = (
        lambda: torch.tensor(evaluation.accuracy(model, x, y)),
        lambda: evaluation.decision_function(model, x, y),
        lambda: evaluation.input_surface(model, x[:1], y[:1], plane, 1.0, points=3).values,
        lambda: found.survives_rounding(model, box=(-5.0, 5.0)),
    )
    want = [call() for call in calls]
    model.train()
    with torch.inference_mode(), pytest.warns(UserWarning, match="evaluated in eval mode"):
        got = [call() for call in calls]
    assert all(torch.equal(a, b) for a, b in zip(got, want, strict=True))
    assert all(module.training for module in model.modules())
    assert all(p.requires_grad for p in model.parameters())
    with torch.inference_mode(), pytest.raises(RuntimeError, match="call this outside"):
        evaluation.decision_gradient(model, x, y)


def of_transforms(function, x):
    """Return by its name each transform, at work on a function of x."""
    return {
        "grad": lambda: torch.func.grad(lambda z: function(z).sum())(x),
        "vmap": lambda: torch.func.vmap(function)(x[None]),
        "jvp": lambda: torch.func.jvp(function, (x,), (x,)),
        "linearize": lambda: torch.func.linearize(function, x),
    }


@pytest.mark.parametrize("name", ["grad", "vmap", "jvp", "linearize"])
def test_transforms_of_torch_func_are_refused(name):
    """PyTorch's own words tell to use such a transform; a linearised Jacobian was a constant."""
    model, x = build("mlp", 3)
    y = torch.arange(3)
    for function in (
        lambda z: jacfast.jacobian(model, z),
        lambda z: jacfast.fgsm(model, z, y, eps=0.1, clip=None),
        lambda z: jacfast.deepfool(model, z),
        lambda z: evaluation.decision_gradient(model, z, y),
        lambda z: torch.tensor(evaluation.accuracy(model, z, y)),
    ):
        with pytest.raises(RuntimeError, match=r"must be called outside torch\.func transforms"):
            of_transforms(function, x)[name]()
    assert all(p.requires_grad for p in model.parameters())
