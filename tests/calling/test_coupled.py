"""Batch-norm without running statistics: in eval mode, too, logits of a sample are the batch's."""

import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import jacfast
from jacfast import evaluation
from jacfast.evaluation.predict import predict
from tests import public
from tests.calling import test_call
from tests.calling.test_call import CALLS, MEANS, ONE, PLANE, SETS
from tests.nets import draw

X = draw(5, 6)
REFUSED = (
    r"batch-norm without running statistics \(track_running_stats=False\), .* has no gradient of "
    r"its own; take another normalisation \(a batch of one sample has no other\); got \d+ "
    "samples at a time$"
)
DEPENDS = "has other logits in another batch, and figures .*; take another normalisation$"
LOOKS = {"predict", "decision_function", "accuracy", "parameter_surface", "roc_curves"}
OWN = {"deep_defense_penalty"}  # is a step's penalty, and has the words of one
TABLES = CALLS | MEANS | SETS


class OfImages(nn.Module):
    """Of vectors as images of 2 x 3: a batch of one has statistics, those of its own."""

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.first, self.norm, self.last = nn.Conv2d(1, 3, 2), norm, nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.norm(self.first(x.view(-1, 1, 2, 3))).tanh().flatten(1))


def network(norm: nn.Module | None = None) -> nn.Module:
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(3, track_running_stats=False) if norm is None else norm
    return OfImages(norm).double().eval()


Y = network()(X).argmax(dim=1)
Y[0] = (Y[0] + 1) % 4


@pytest.mark.parametrize("name", sorted(TABLES.keys() - LOOKS - OWN))
@pytest.mark.parametrize("around", [False, True])
@pytest.mark.filterwarnings("ignore:.*in another batch")
def test_what_needs_gradients_refuses(name, around):
    model = network()
    with pytest.raises(RuntimeError, match=REFUSED):
        TABLES[name]((lambda x: model(x)) if around else model, X, Y)


@pytest.mark.parametrize("name", sorted(LOOKS))
def test_what_needs_none_warns_once(name):
    with pytest.warns(UserWarning, match=DEPENDS) as caught:
        TABLES[name](network(), X, Y)
    assert [w.filename for w in caught] == [test_call.__file__]


def test_every_public_function_is_here():
    elsewhere = {"bench", "forward_with_penalty", "robustness_report"}
    assert public.left_out(public.WITH_ARGUMENTS, [*TABLES, *ONE]) == elsewhere


def test_the_report():
    with pytest.warns(UserWarning, match=DEPENDS), pytest.raises(RuntimeError, match=REFUSED):
        jacfast.robustness_report(network(), X, Y, clip=None)


COPIES = {"decision_hessian", "hessian_eigenvalues"}  # at many points, or copies, of one sample


@pytest.mark.parametrize("name", sorted(CALLS.keys() - COPIES))
def test_one_sample_has_nobody_to_be_coupled_with(name):
    """It is an instance-norm then."""
    model, twin = network(), network(nn.InstanceNorm2d(3, affine=True))
    twin.load_state_dict(model.state_dict())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        got, want = (CALLS[name](m, X[:1], Y[:1]) for m in (model, twin))
    torch.testing.assert_close(got, want)


@pytest.mark.parametrize("name", sorted(COPIES | {"decision_line"}))
@pytest.mark.filterwarnings("ignore:.*in another batch")
def test_points_of_one_sample_are_a_batch(name):
    with pytest.raises(RuntimeError, match=REFUSED):
        (CALLS | ONE)[name](network(), X[:1], Y[:1])


def test_points_of_a_surface_are_a_batch():
    with pytest.warns(UserWarning, match=DEPENDS):
        evaluation.input_surface(network(), X[:1], Y[:1], PLANE, 1.0, points=3)


@pytest.mark.parametrize(
    "norm",
    [
        nn.BatchNorm2d(3),
        nn.InstanceNorm2d(3),
        nn.InstanceNorm2d(3, track_running_stats=True),
        nn.GroupNorm(1, 3),
    ],
)
def test_others_keep_samples_apart(norm):
    model = network(norm)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        whole = jacfast.jacobian(model, X)
        assert predict(model, X).shape == (5, 4)
    parts = torch.cat([jacfast.jacobian(model, x) for x in X.split(1)])
    torch.testing.assert_close(whole, parts)


class Standardised(nn.Linear):
    """A weight of mean 0 and variance 1 by the function of batch-norm, as timm has it."""

    def forward(self, x: Tensor) -> Tensor:
        rows = self.weight[None]
        return F.linear(x, F.batch_norm(rows, None, None, training=True, momentum=0.0)[0])


def test_a_weight_that_is_standardised_couples_nothing():
    model = nn.Sequential(Standardised(6, 4), nn.Tanh(), Standardised(4, 4)).double()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        whole = jacfast.jacobian(model, X)
        jacfast.deepfool(model, X)
        evaluation.accuracy(model, X, Y)
    torch.testing.assert_close(whole, torch.cat([jacfast.jacobian(model, x) for x in X.split(1)]))
