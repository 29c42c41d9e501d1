"""What a model may return, and which of it is meant."""

import collections
import dataclasses
import re

import pytest
import torch
from torch import Tensor, nn

import jacfast
from jacfast import evaluation
from jacfast.calling import as_logits, as_rows, pick
from tests.nets import draw

Z, OTHER = draw(3, 5), draw(3, 7, seed=1)
Named = collections.namedtuple("Named", "logits aux")


@dataclasses.dataclass
class Output:
    logits: Tensor
    features: Tensor


PICKED = {
    "tensor": (Z, None),
    "attribute": (Output(Z, OTHER), None),
    "mapping": ({"loss": OTHER, "logits": Z}, None),
    "ordered": (collections.OrderedDict(logits=Z, hidden=OTHER), None),
    "named tuple": (Named(Z, OTHER), None),
    "a tuple of one": ((Z,), None),
    "a list of one": ([Z], None),
    "nothing beside it": ((Z, None), None),
    "states beside it": ((Z, (OTHER, OTHER)), None),
    "a loss before it": ((torch.tensor(1.0), Z), None),
    "integers beside it": ((Z, torch.arange(3)), None),
    "the only one of a mapping": ({"out": Z, "step": 3}, None),
    "index": ((OTHER, Z), 1),
    "from the end": ([OTHER, OTHER, Z], -1),
    "key": ({"a": OTHER, "logits": OTHER, "b": Z}, "b"),
    "key that is an int": ({0: OTHER, 1: Z}, 1),
    "name": (Output(OTHER, Z), "features"),
    "name of a tuple": (Named(OTHER, Z), "aux"),
}


@pytest.mark.parametrize(("returned", "output"), PICKED.values(), ids=PICKED)
def test_the_one_that_is_meant(returned, output):
    assert pick(returned, output) is Z


REFUSED = {
    "two": (ValueError, (Z, OTHER), None, "output= must say which of several is meant; got tuple"),
    "two, by name": (
        ValueError,
        {"a": Z, "b": OTHER},
        None,
        "got dict of 'a': [3, 5], 'b': [3, 7]",
    ),
    "none": (TypeError, (None, torch.arange(3)), None, "must return a tensor of logits"),
    "empty": (TypeError, (), None, "an empty tuple"),
    "text": (TypeError, "logits", None, "must return a tensor of logits; got str"),
    "integers": (TypeError, torch.arange(3), None, "floating-point logits; got torch.int64"),
    "no such key": (ValueError, {"a": Z}, "b", "output must be one of the model's outputs"),
    "no such index": (ValueError, (Z,), 1, "tuple of 0: [3, 5]; got 1"),
    "no such name": (ValueError, Output(Z, Z), "probs", "the attributes of a Output; got 'probs'"),
    "of a tensor": (ValueError, Z, 0, "output must be None for a model that returns one tensor"),
    "bool": (TypeError, (Z, OTHER), True, "output must be a name, an index or None; got True"),
    "logits that are none": (TypeError, {"logits": None}, None, "got NoneType"),
}


@pytest.mark.parametrize(("kind", "returned", "output", "text"), REFUSED.values(), ids=REFUSED)
def test_what_is_refused(kind, returned, output, text):
    with pytest.raises(kind, match=re.escape(text)):
        pick(returned, output)


def test_shapes():
    one, image, dense = draw(3), draw(3, 5, 1, 1), draw(3, 5, 8, 8)
    assert torch.equal(as_logits(one, one), one[:, None])
    assert torch.equal(as_logits(image, one), image[:, :, 0, 0])
    assert torch.equal(as_rows(dense, one), dense.flatten(1))
    for wrong in (dense, draw(3, 4, 5), draw(3, 1, 5)):
        with pytest.raises(ValueError, match=r"dense output of shape.*pool.*flatten\(1\)"):
            as_logits(wrong, one)
    for wrong in (draw(2, 5), torch.tensor(1.0)):
        for check in (as_logits, as_rows):
            with pytest.raises(ValueError, match="one row of logits per sample"):
                check(wrong, one)


class Segments(nn.Module):
    """A map of five classes, [N, 5, 8, 8]."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 5, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)


Y = torch.zeros(2, dtype=torch.int64)
OF_CLASSES = {
    "deepfool": lambda model, x: jacfast.deepfool(model, x),
    "fgsm": lambda model, x: jacfast.fgsm(model, x, eps=0.1, clip=None),
    "pgd": lambda model, x: jacfast.pgd(model, x, eps=0.1, clip=None),
    "bim": lambda model, x: jacfast.bim(model, x, eps=0.1, clip=None),
    "carlini_wagner": lambda model, x: jacfast.carlini_wagner(model, x, clip=(-9, 9)),
    "ddn": lambda model, x: jacfast.ddn(model, x, steps=3, clip=(-9, 9)),
    "fmn": lambda model, x: jacfast.fmn(model, x, steps=3, clip=(-9, 9)),
    "minimal_norm": lambda model, x: jacfast.minimal_norm(model, x, clip=None),
    "jsma": lambda model, x: jacfast.jsma(model, x, steps=1, clip=None),
    "rho_adv": lambda model, x: jacfast.rho_adv(model, x),
    "deep_defense_penalty": lambda model, x: jacfast.deep_defense_penalty(model, x, Y),
    "accuracy": lambda model, x: evaluation.accuracy(model, x, Y),
    "decision_function": lambda model, x: evaluation.decision_function(model, x, Y),
    "decision_gradient": lambda model, x: evaluation.decision_gradient(model, x, Y),
    "curvature_bound": lambda model, x: evaluation.curvature_bound(model, x),
    "distance_bounds": lambda model, x: evaluation.distance_bounds(model, x),
    "input_direction": lambda model, x: evaluation.input_direction(model, x, Y, "loss"),
    "hessian_eigenvalues": lambda model, x: evaluation.hessian_eigenvalues(model, x, Y, step=0.1),
}


@pytest.mark.parametrize("call", OF_CLASSES.values(), ids=OF_CLASSES)
def test_a_dense_output_is_not_classes(call):
    with pytest.raises(ValueError, match=r"got a dense output of shape \[\d+, 5, 8, 8\]: pool"):
        call(Segments(), torch.randn(2, 3, 8, 8))


@pytest.mark.parametrize("name", ["deepfool", "fgsm", "accuracy", "decision_gradient"])
def test_logits_of_one_pixel_are_logits(name):
    """As fully convolutional classifiers give them."""
    torch.manual_seed(0)
    conv = nn.Sequential(nn.Conv2d(3, 5, 8))
    flat, x = nn.Sequential(conv, nn.Flatten()), torch.randn(2, 3, 8, 8)
    got, want = OF_CLASSES[name](conv, x), OF_CLASSES[name](flat, x)
    if name == "deepfool":
        got, want = got.r, want.r
    assert got == want if name == "accuracy" else torch.equal(got, want)


def test_a_critic_has_a_jacobian_of_one_row():
    torch.manual_seed(0)
    critic = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 1), nn.Flatten(0)).double()
    x = draw(4, 6)
    rows = jacfast.jacobian(critic, x)
    leaf = x.clone().requires_grad_()
    (want,) = torch.autograd.grad(critic(leaf).sum(), leaf)
    torch.testing.assert_close(rows, want[:, None])
    leaf = x.clone().requires_grad_()
    penalty = jacfast.frobenius_penalty(critic(leaf), leaf, n="exact")
    torch.testing.assert_close(penalty, want.square().sum(dim=1).mean())
    logits, penalty = jacfast.forward_with_penalty(critic, x, penalty=jacfast.Frobenius("exact"))
    assert logits.shape == (4,)
    torch.testing.assert_close(penalty, want.square().sum(dim=1).mean())
    with pytest.raises(ValueError, match=r"got 1\. Of a single logit z.*torch\.stack\("):
        jacfast.deepfool(critic, x)


def test_a_dense_output_has_a_jacobian():
    model = Segments().double()
    x = torch.randn(2, 3, 4, 4, dtype=torch.float64)
    rows = jacfast.jacobian(model, x)
    want = torch.func.vmap(torch.func.jacrev(lambda one: model(one[None])[0]))(x)
    torch.testing.assert_close(rows, want.flatten(1, 3))
