"""Batch statistics are refused where they couple samples, and only there."""

import inspect

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from jacfast import Frobenius, JacobianReg, frobenius_penalty, penalties
from tests import public
from tests.nets import RTOL, relative_error
from tests.penalties.formulas import PENALTIES, by_hand

IMAGES, TOKENS, VECTORS = (4, 5, 5), (4, 5), (4,)
REFUSED = "the model has batch-norm .*, which makes each sample's logits depend on the whole batch"
WITHOUT = {"without running statistics", "functional"}


class Functional(nn.Module):
    """F.batch_norm with batch statistics, in a module that is in eval mode."""

    def forward(self, x: Tensor) -> Tensor:
        return F.batch_norm(x, None, None, training=True)


def no_statistics(norm: type[nn.Module]) -> nn.Module:
    return norm(4, track_running_stats=False)


COUPLED = {
    "BatchNorm1d": (lambda: nn.BatchNorm1d(4), VECTORS),
    "BatchNorm1d of tokens": (lambda: nn.BatchNorm1d(4), TOKENS),
    "BatchNorm1d without a weight": (lambda: nn.BatchNorm1d(4, affine=False), VECTORS),
    "BatchNorm2d": (lambda: nn.BatchNorm2d(4), IMAGES),
    "BatchNorm3d": (lambda: nn.BatchNorm3d(4), (4, 2, 3, 3)),
    "SyncBatchNorm in one process": (lambda: nn.SyncBatchNorm(4), IMAGES),
    "without running statistics": (lambda: no_statistics(nn.BatchNorm2d).eval(), IMAGES),
    "functional": (lambda: Functional().eval(), IMAGES),
}
APART = {
    "BatchNorm1d in eval mode": (lambda: nn.BatchNorm1d(4).eval(), VECTORS),
    "BatchNorm2d in eval mode": (lambda: nn.BatchNorm2d(4).eval(), IMAGES),
    "SyncBatchNorm in eval mode": (lambda: nn.SyncBatchNorm(4).eval(), IMAGES),
    "InstanceNorm1d": (lambda: nn.InstanceNorm1d(4), TOKENS),
    "InstanceNorm2d": (lambda: nn.InstanceNorm2d(4, affine=True), IMAGES),
    "GroupNorm": (lambda: nn.GroupNorm(2, 4), IMAGES),
    "LayerNorm": (lambda: nn.LayerNorm(4), VECTORS),
}


def around(norm: nn.Module, samples: int, shape: tuple[int, ...]) -> tuple[nn.Module, Tensor]:
    """Return a network with that layer inside it, and a batch."""
    torch.manual_seed(0)
    x = torch.randn(samples, *shape, dtype=torch.float64)
    head = nn.Linear(x[0].numel(), 5)
    model = nn.Sequential(nn.Tanh(), norm, nn.Tanh(), nn.Flatten(), head).double()
    return model, x.requires_grad_()


@pytest.mark.parametrize("name", COUPLED)
def test_batch_statistics_are_refused(name):
    """The ways out are named, and none that leads nowhere."""
    make, shape = COUPLED[name]
    model, x = around(make(), 3, shape)
    for n in (1, "exact"):
        with pytest.raises(RuntimeError, match=REFUSED) as caught:
            Frobenius(n)(model(x), x)
    text = str(caught.value)
    assert "batch_norm='coupled'" in text
    assert ("module.eval()" in text) == ("batch_norm='frozen'" in text) == (name not in WITHOUT)


def coupled_by_hand(model: nn.Module, x: Tensor) -> Tensor:
    """Return the mean of squares of the gradients of each class's logits, summed over the batch."""
    z = model(x)
    rows = [torch.autograd.grad(z[:, k].sum(), x, create_graph=True)[0] for k in range(z.shape[1])]
    return sum(row.square().sum() for row in rows) / len(x)


@pytest.mark.parametrize("name", COUPLED)
def test_coupled_on_request(name):
    make, shape = COUPLED[name]
    model, x = around(make(), 3, shape)
    parameters = list(model.parameters())
    want = coupled_by_hand(model, x)
    gradients = torch.autograd.grad(want, parameters, materialize_grads=True)
    basis = torch.eye(5, dtype=x.dtype)[:, None].expand(5, 3, 5)
    for value in (
        Frobenius("exact")(model(x), x, batch_norm="coupled"),
        frobenius_penalty(model(x), x, vectors=basis, batch_norm="coupled"),
        2 * JacobianReg(-1, batch_norm="coupled")(x, model(x)),
    ):
        torch.testing.assert_close(value, want)
        got = torch.autograd.grad(value, parameters, materialize_grads=True)
        torch.testing.assert_close(got, gradients)


@pytest.mark.parametrize("name", public.FUNCTIONS)
def test_every_function_takes_the_coupled_batch(name):
    model, x = around(nn.BatchNorm2d(4), 3, IMAGES)
    function = getattr(penalties, name)
    labels = (torch.arange(3),) if "y" in inspect.signature(function).parameters else ()
    assert function(model(x), x, *labels, batch_norm="coupled") > 0
    with pytest.raises(RuntimeError, match=REFUSED):
        function(model(x), x, *labels)


@pytest.mark.parametrize("option", ["frozen", "eval", None])
def test_what_cannot_be_had_of_logits_that_are_there(option):
    model, x = around(nn.BatchNorm2d(4), 3, IMAGES)
    text = "batch_norm must be 'refuse' or 'coupled' for logits .* forward_with_penalty"
    with pytest.raises(ValueError, match=text):
        Frobenius()(model(x), x, batch_norm=option)
    with pytest.raises(ValueError, match=text):
        JacobianReg(batch_norm=option)


@pytest.mark.parametrize("name", PENALTIES)
def test_every_penalty_refuses_them(name):
    model, x = around(nn.BatchNorm2d(4), 3, IMAGES)
    with pytest.raises(RuntimeError, match=REFUSED):
        PENALTIES[name](model(x), x, torch.arange(3))
    model.eval()
    assert PENALTIES[name](model(x), x, torch.arange(3)) > 0


def assert_right(model: nn.Module, x: Tensor) -> None:
    value = Frobenius("exact")(model(x), x)
    want, gradients = by_hand("frobenius", model, x, torch.arange(len(x)))
    assert relative_error(value, want) < RTOL[x.dtype]
    value.backward()
    weight = model[-1].weight.grad
    assert relative_error(weight, gradients["4.weight"]) < RTOL[x.dtype]


@pytest.mark.parametrize("name", APART)
def test_layers_that_keep_samples_apart_are_right(name):
    make, shape = APART[name]
    assert_right(*around(make(), 3, shape))


@pytest.mark.parametrize("norm", [nn.BatchNorm2d, nn.InstanceNorm2d])
def test_a_batch_of_one_has_none_to_be_coupled_with(norm):
    assert_right(*around(no_statistics(norm), 1, IMAGES))
    model, x = around(norm(4), 1, IMAGES)
    assert Frobenius()(model(x), x) > 0
