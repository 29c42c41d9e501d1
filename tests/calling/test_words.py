"""What is said, and what works, where the model or x is not as usual."""

import re
import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import jacfast
from jacfast import evaluation
from tests.nets import build, draw

Y = torch.zeros(4, dtype=torch.int64)
CALLS = {
    "jacobian": lambda model, x: jacfast.jacobian(model, x),
    "deepfool": lambda model, x: jacfast.deepfool(model, x, steps=3).r,
    "fgsm": lambda model, x: jacfast.fgsm(model, x, eps=0.1, clip=None),
    "bim": lambda model, x: jacfast.bim(model, x, eps=0.1, clip=None, steps=3),
    "pgd": lambda model, x: jacfast.pgd(model, x, eps=0.1, clip=None, random_start=False),
    "carlini_wagner": lambda model, x: jacfast.carlini_wagner(
        model, x, clip=(-9, 9), steps=3, binary_steps=1
    ),
    "ddn": lambda model, x: jacfast.ddn(model, x, steps=3, clip=(-9, 9)),
    "fmn": lambda model, x: jacfast.fmn(model, x, steps=3, clip=(-9, 9)),
    "minimal_norm": lambda model, x: jacfast.minimal_norm(model, x, budget=20, clip=None),
    "jsma": lambda model, x: jacfast.jsma(model, x, steps=2, clip=None),
    "decision_function": lambda model, x: evaluation.decision_function(model, x, Y),
    "decision_gradient": lambda model, x: evaluation.decision_gradient(model, x, Y),
    "distance_bounds": lambda model, x: evaluation.distance_bounds(model, x).boundary,
    "deep_defense_penalty": lambda model, x: jacfast.deep_defense_penalty(model, x, Y).detach(),
    "forward_with_penalty": lambda model, x: jacfast.forward_with_penalty(
        model, x, penalty=jacfast.Frobenius("exact")
    )[1].detach(),
}
WITH_GRADIENTS = {name: call for name, call in CALLS.items() if name != "decision_function"}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_x_made_in_inference_mode(call):
    model, x = build("mlp")
    with torch.inference_mode():
        made = x.clone()
    assert made.is_inference()
    assert torch.equal(call(model, made), call(model, x))


def test_further_arguments_made_in_inference_mode():
    model, x = build("mlp")
    with torch.inference_mode():
        factor = draw(4, 6)
    got = jacfast.jacobian(lambda x, factor: model(x * factor), x, args=(factor,))
    torch.testing.assert_close(got, jacfast.jacobian(lambda x: model(x * factor.clone()), x))


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
@pytest.mark.parametrize(
    ("dtype", "text"),
    [
        (torch.uint8, "x must be floating point (scale images to [0, 1]); got torch.uint8"),
        (torch.int64, "of token ids pass the embeddings, which a gradient exists for"),
        (torch.bool, "x must be floating point; got torch.bool"),
    ],
)
def test_x_of_integers(call, dtype, text):
    model, _ = build("mlp")
    with pytest.raises(TypeError, match=re.escape(text)):
        call(model, torch.ones(4, 6, dtype=dtype))


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
@pytest.mark.parametrize(
    "layout", [torch.strided, torch.sparse_coo, torch.sparse_csr, torch.jagged]
)
@pytest.mark.filterwarnings("ignore:Sparse CSR", "ignore:The PyTorch API of nested")
def test_x_that_is_not_dense(call, layout):
    model, x = build("mlp")
    if layout in (torch.strided, torch.jagged):
        x = torch.nested.nested_tensor(list(x), layout=layout)
    else:
        x = x.to_sparse(layout=layout)
    kind = "a nested tensor" if layout == torch.strided else layout
    text = f"x must be dense (x.to_dense(), of nested ones x.to_padded_tensor(0)); got {kind}"
    with pytest.raises(TypeError, match=re.escape(text)):
        call(model, x)
    with pytest.raises(TypeError, match=re.escape(text)):
        jacfast.forward_with_penalty(model, x, compiled="traced")


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_parameters_that_are_not_there_yet(call):
    model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.LazyLinear(4)).double()
    text = "the weight of a LazyLinear is made by the first forward pass: call model(x) once"
    with pytest.raises(ValueError, match=re.escape(text)):
        call(model, draw(4, 6))
    assert isinstance(model[2].weight, nn.parameter.UninitializedParameter)
    model(draw(4, 6))
    call(model, draw(4, 6))


class Quantised(torch.autograd.Function):
    """An operation as those of dynamically quantised layers: a node, and no gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> None:
        return None


DETACH = {
    "detach": lambda net, x: net(x.detach()),
    "no_grad": lambda net, x: torch.no_grad()(net)(x),
    "data": lambda net, x: net(x.data),
    "numpy": lambda net, x: torch.from_numpy(net(x).detach().numpy()),
    "rounded": lambda net, x: net(torch.from_numpy(x.detach().numpy().round())),
    "quantised": lambda net, x: net(Quantised.apply(x)),
}


@pytest.mark.parametrize("call", WITH_GRADIENTS.values(), ids=WITH_GRADIENTS)
@pytest.mark.parametrize("how", DETACH.values(), ids=DETACH)
def test_models_that_detach(call, how):
    class Detaching(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = build("mlp")[0]

        def forward(self, x: Tensor) -> Tensor:
            return how(self.net, x)

    with pytest.raises(ValueError, match="rounding or quantised weights in the"):
        call(Detaching(), draw(4, 6))


OF_CLASSES: dict[str, Any] = {
    **{name: CALLS[name] for name in set(CALLS) - {"jacobian", "forward_with_penalty"}},
    "accuracy": lambda model, x: evaluation.accuracy(model, x, Y),
    "accuracy_curve": lambda model, x: evaluation.accuracy_curve(model, x, Y, jacfast.fgsm, [0]),
    "robustness_report": lambda model, x: jacfast.robustness_report(model, x, Y, clip=None),
    "roc_curves": lambda model, x: evaluation.roc_curves(model, x, torch.arange(4) % 2),
    **{
        of: lambda model, x, of=of: evaluation.input_surface(model, x[:1], Y[:1], x[:2], 1, of=of)
        for of in ("loss", "label", "decision")
    },
}


@pytest.mark.parametrize("name", sorted(OF_CLASSES))
def test_a_single_logit(name):
    """To which any label but 0 is none, and which has every sample of label 0 right."""
    model = nn.Linear(6, 1).double()
    with pytest.raises(ValueError, match=r"got 1\. Of a single logit z.*return torch\.stack\("):
        OF_CLASSES[name](model, draw(4, 6))


@pytest.mark.parametrize("shape", [(-1,), (-1, 1)], ids=str)
def test_the_two_logits_that_are_advised_serve_everything(shape):
    """Of zero and z the class zero has no saliency, and ||J||_F is too large by the root of two."""
    single = nn.Linear(6, 1, bias=False).double()
    with pytest.raises(ValueError, match="Of a single logit z") as refused:
        jacfast.deepfool(single, draw(4, 6))
    advised = str(refused.value).rpartition("return ")[2]

    def model(x):
        return eval(advised, {"torch": torch, "z": single(x).view(shape)})

    x = draw(4, 6)
    z, size = single(x).detach()[:, 0], single.weight.detach().norm()
    assert model(x).argmax(1).tolist() == (z > 0).long().tolist()
    torch.testing.assert_close(model(x).softmax(1)[:, 1], z.sigmoid())
    bounds = jacfast.distance_bounds(model, x)
    torch.testing.assert_close(bounds.nearest, z.abs() / size)
    torch.testing.assert_close(bounds.frobenius, z.abs() / size)
    assert bool(jacfast.jsma.result(model, x, eps=9.0, steps=6, clip=None).success.all())


def grey_values(*shape: int) -> Tensor:
    return torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(0)).float()


def test_grey_values_draw_a_warning_where_there_is_no_box():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(192, 4))
    x = grey_values(2, 3, 8, 8)
    for call in (lambda: jacfast.deepfool(model, x), lambda: jacfast.rho_adv(model, x)):
        with pytest.warns(UserWarning, match=r"whole numbers of 0 \.\. 25\d.*divided by 255"):
            call()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for quietly in (x / 255, x - 100, x + 0.5, 4 * x, (x > 100).float()):
            jacfast.deepfool(model, quietly)
        jacfast.deepfool(model, x, clip=(0, 255))
        jacfast.deepfool(nn.Linear(20, 4), grey_values(3, 20))  # counts, not images
