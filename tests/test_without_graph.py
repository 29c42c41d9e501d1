"""Whatever of the arguments requires grad: no result of an attack or a measure has a graph."""

import math
import warnings

import pytest
import torch
from torch import Tensor
from torch.utils import _pytree as pytree

import jacfast
from jacfast import evaluation
from jacfast.attacks.adapters import for_attackbench
from tests.nets import build, draw

# of a network, images x, others near them, labels, and what makes a tensor that requires grad
CALLS = {
    "fgsm": lambda m, x, o, y, g: jacfast.fgsm.result(m, x, y, eps=g(0.1), clip=(g(0.0), g(1.0))),
    "fgsm, by channels": lambda m, x, o, y, g: jacfast.fgsm.result(
        m, x, y, eps=g([[[0.1]], [[0.2]]]), clip=(g([[[0.0]], [[0.0]]]), g([[[1.0]], [[1.1]]]))
    ),
    "bim": lambda m, x, o, y, g: jacfast.bim.result(
        m, x, eps=g([[[0.1]], [[0.2]]]), step_size=g([[[0.1]], [[0.05]]])
    ),
    "pgd": lambda m, x, o, y, g: jacfast.pgd.result(m, x, y, eps=g(0.5), p=2, restarts=2),
    "carlini_wagner": lambda m, x, o, y, g: jacfast.carlini_wagner.result(
        m, x, steps=5, binary_steps=2, clip=(g(0.0), g(1.0))
    ),
    "ddn": lambda m, x, o, y, g: jacfast.ddn.result(m, x, steps=5, clip=(g(0.0), g(1.0))),
    "fmn": lambda m, x, o, y, g: jacfast.fmn.result(m, x, steps=5),
    "jsma": lambda m, x, o, y, g: jacfast.jsma.result(m, x, steps=3, eps=g([[[0.1]], [[0.2]]])),
    "minimal_norm": lambda m, x, o, y, g: jacfast.minimal_norm.result(
        m, x, start=o, clip=(g([[[0.0]], [[0.0]]]), g([[[1.0]], [[1.1]]]))
    ),
    "deepfool": lambda m, x, o, y, g: jacfast.deepfool(m, x, y, clip=(g(0.0), g(1.0))),
    "deepfool, super": lambda m, x, o, y, g: jacfast.deepfool(m, x, variant="super"),
    "deepfool, mask": lambda m, x, o, y, g: jacfast.deepfool(m, x, mask=g(torch.ones(2, 8, 8))),
    "deepfool, subspace": lambda m, x, o, y, g: jacfast.deepfool(m, x, subspace=g(torch.eye(128))),
    "for_attackbench": lambda m, x, o, y, g: for_attackbench(m, x, y, steps=1),
    "survives_rounding": lambda m, x, o, y, g: jacfast.fgsm.result(m, x, eps=0.1).survives_rounding(
        m, box=(g(0.0), g(1.0))
    ),
    "robustness_report": lambda m, x, o, y, g: vars(
        jacfast.robustness_report(m, x, y, eps=[g(0.5)], clip=(g(0.0), g(1.0))).attacked
    ),
    "jacobian": lambda m, x, o, y, g: jacfast.jacobian(m, x),
    "distance_bounds": lambda m, x, o, y, g: jacfast.distance_bounds(m, x),
    "predict": lambda m, x, o, y, g: evaluation.predict(m, x),
    "decision_function": lambda m, x, o, y, g: evaluation.decision_function(m, x, y),
    "decision_gradient": lambda m, x, o, y, g: evaluation.decision_gradient(m, x, y),
    "curvature": lambda m, x, o, y, g: evaluation.curvature(m, x, y, o),
    "curvature, by steps": lambda m, x, o, y, g: evaluation.curvature(m, x, y, o, step=0.1),
    "decision_hessian": lambda m, x, o, y, g: evaluation.decision_hessian(m, x[:1], y[:1]),
    "hessian_eigenvalues": lambda m, x, o, y, g: evaluation.hessian_eigenvalues(m, x[:1], y[:1], 2),
    "decision_line": lambda m, x, o, y, g: evaluation.decision_line(
        m, x[:1], y[:1], o[0], g([0.0, 0.1])
    ),
    "input_direction": lambda m, x, o, y, g: evaluation.input_direction(m, x, y, "loss"),
    "plane": lambda m, x, o, y, g: evaluation.plane(x[0], o[0]),
    "input_surface": lambda m, x, o, y, g: evaluation.input_surface(
        m, x[:1], y[:1], o[:2], 0.1, of="logits", points=3
    ),
    "parameter_surface": lambda m, x, o, y, g: evaluation.parameter_surface(
        m, x, y, [{n: g(p) for n, p in m.named_parameters()}] * 2, points=3
    ),
    "parameter_directions": lambda m, x, o, y, g: evaluation.parameter_directions(m),
    "mean_value_bound": lambda m, x, o, y, g: evaluation.mean_value_bound(m, x, o),
    "curvature_bound": lambda m, x, o, y, g: evaluation.curvature_bound(m, x),
    "inner_distance_bound": lambda m, x, o, y, g: evaluation.inner_distance_bound(m, m[:-1], x),
    "jacobian_statistics": lambda m, x, o, y, g: evaluation.jacobian_statistics(o, 0.1),
}
NUMBERS = {
    "accuracy": lambda m, x, o, y, g: evaluation.accuracy(m, x, y),
    "accuracy_curve": lambda m, x, o, y, g: evaluation.accuracy_curve(
        m, x, y, jacfast.fgsm, g([0.1])
    ),
    "accuracy_curve of a result": lambda m, x, o, y, g: evaluation.accuracy_curve(
        m, x, y, jacfast.deepfool(m, x), [g(0.1)]
    ),
    "reference_epsilon": lambda m, x, o, y, g: evaluation.reference_epsilon(m, x, y, tolerance=0.1),
    "rho_adv": lambda m, x, o, y, g: jacfast.rho_adv(m, x),
    "jacobian_norm": lambda m, x, o, y, g: evaluation.jacobian_norm(m, x),
}


def given():
    model, x = build("cnn", 3)
    x = x.sigmoid()
    other = (x + draw(*x.shape) / 10).clamp(0, 1)
    return model, x, other, model(x).argmax(dim=1)


def requiring(value) -> Tensor:
    return torch.as_tensor(value, dtype=torch.float64).detach().clone().requires_grad_()


def tensors(found) -> list[Tensor]:
    held = found.tensors() if isinstance(found, jacfast.AttackResult) else found
    return [leaf for leaf in pytree.tree_leaves(held) if isinstance(leaf, Tensor)]


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
@pytest.mark.filterwarnings("ignore:.*were not fooled")
def test_no_result_has_a_graph(call):
    model, x, other, y = given()
    torch.manual_seed(0)
    want = tensors(call(model, x, other, y, lambda value: requiring(value).detach()))
    assert want
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        got = tensors(call(model, requiring(x), requiring(other), y, requiring))
    assert not any(tensor.requires_grad for tensor in got)
    for a, b in zip(got, want, strict=True):
        assert a.shape == b.shape
        assert a.dtype == b.dtype


@pytest.mark.parametrize("call", NUMBERS.values(), ids=NUMBERS)
@pytest.mark.filterwarnings("ignore:.*were not fooled")
def test_numbers_are_the_same(call):
    model, x, other, y = given()
    want = call(model, x, other, y, lambda value: requiring(value).detach())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert call(model, requiring(x), requiring(other), y, requiring) == want
    assert all(math.isfinite(v) for v in pytree.tree_leaves(want))
