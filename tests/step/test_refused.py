"""Models and surroundings that forward_with_penalty cannot serve are refused in words."""

import re

import pytest
import torch
from torch import Tensor, nn

from jacfast import Frobenius, WithPenalty, forward_with_penalty, penalised
from tests.step.networks import build


def refuses(kind: type[Exception], text: str):
    return pytest.raises(kind, match=re.escape(text))


@pytest.fixture
def mlp():
    """Return the network, its batch and labels."""
    return build("mlp")


def test_models(mlp):
    model, x, _ = mlp
    with refuses(
        TypeError, "model must be a torch.nn.Module, whose parameters are known; got func"
    ):
        forward_with_penalty(lambda x: model(x), x)
    with refuses(TypeError, "model must not be a DataParallel, which would not see the gradients"):
        forward_with_penalty(nn.DataParallel(model), x)


AROUND = {
    "compiled": lambda model: torch.compile(model, backend="eager"),
    "parallel": nn.DataParallel,
    "last": lambda model: nn.Sequential(nn.Identity(), model),
    "both": lambda model: nn.Sequential(torch.compile(model, backend="eager")),
}


@pytest.mark.parametrize("around", AROUND.values(), ids=AROUND)
def test_what_answers_for_a_model_is_what_it_is(mlp, around):
    """The inner penalty was dropped without a word, and a parallel wrapper taken."""
    model, x, _ = mlp
    with refuses(TypeError, "model must not be a WithPenalty, whose penalty would be in no loss"):
        forward_with_penalty(around(WithPenalty(model)), x)
    with refuses(TypeError, "model must not be a DataParallel, which would not see the gradients"):
        forward_with_penalty(around(nn.DataParallel(model)), x)


@pytest.mark.parametrize("penalty", [Frobenius(), None])
def test_a_penalty_inside_another(mlp, penalty):
    """The inner one would be in no loss."""
    model, x, _ = mlp
    pair = WithPenalty(model)
    text = "model must not be a WithPenalty, whose penalty would be in no loss: give its model"
    with refuses(TypeError, text):
        forward_with_penalty(pair, x, penalty=penalty)
    with refuses(TypeError, text):
        WithPenalty(pair, penalty)
    with refuses(TypeError, text), penalised(pair):
        pair(x)


def test_what_cannot_be_penalised_is_refused_before_it_is_called(mlp):
    model, _, _ = mlp
    with refuses(TypeError, "model must be a torch.nn.Module"), penalised(lambda x: model(x)):
        pass


@pytest.mark.parametrize("wrapper", ["FullyShardedDataParallel", "FSDPModule"])
@pytest.mark.parametrize("place", ["it", "0"])
def test_parameters_in_pieces(mlp, wrapper, place):
    model, x, _ = mlp
    part = model if place == "it" else model[0]
    part.__class__ = type("Sharded", (type(part), type(wrapper, (), {})), {})
    with refuses(TypeError, f"model must have whole parameters; {place} is a {wrapper}: with FSDP"):
        forward_with_penalty(model, x)


class Returning(nn.Module):
    """A linear layer, and what becomes of its output."""

    def __init__(self, change) -> None:
        super().__init__()
        self.linear, self.change = nn.Linear(6, 5), change

    def forward(self, x: Tensor) -> Tensor:
        return self.change(self.linear(x))


OUTPUTS = {
    "tuple": (ValueError, lambda z: (z, z), "output= must say which of several is meant"),
    "a number": (ValueError, lambda z: z.sum(), "[N, K] with N = 4; got shape []"),
    "other rows": (ValueError, lambda z: z[:3], "[N, K] with N = 4; got shape [3, 5]"),
    "detached": (ValueError, Tensor.detach, "the model's outputs do not depend on x"),
}


@pytest.mark.parametrize("name", OUTPUTS)
def test_outputs(name):
    kind, change, text = OUTPUTS[name]
    with refuses(kind, text):
        forward_with_penalty(Returning(change), torch.randn(4, 6))


def test_an_output_of_parameters_alone():
    model = Returning(lambda z: 0)
    model.change = lambda z: model.linear.bias.expand(len(z), 5)
    with refuses(ValueError, "the model's outputs do not depend on x"):
        forward_with_penalty(model, torch.randn(4, 6))


def test_a_tensor_that_is_no_parameter():
    factor, x = torch.ones(5, requires_grad=True), torch.randn(4, 6)
    model = Returning(lambda z: z * factor)
    text = "depends on a tensor of shape [5] that is not one of model.parameters()"
    with refuses(RuntimeError, text):
        forward_with_penalty(model, x)
    with torch.no_grad():  # no gradient, none to lose
        forward_with_penalty(model, x)
    factor.requires_grad_(False)
    forward_with_penalty(model, x)


def test_a_layer_that_the_first_call_makes():
    model, x = Returning(None), torch.randn(4, 6)

    def make(z):
        if not hasattr(model, "head"):
            model.head = nn.Linear(5, 3)
        return model.head(z)

    model.change = make
    with refuses(RuntimeError, "(if the call itself makes it one: call model(x) once before)"):
        forward_with_penalty(model, x)
    logits, _ = forward_with_penalty(model, x)
    logits.sum().backward()
    assert model.head.weight.grad is not None


def test_a_tensor_that_is_no_parameter_of_a_later_chunk():
    factor, x = torch.ones(5, requires_grad=True), torch.randn(4, 6)
    model = Returning(lambda z: z * factor if len(z) == 1 else z)
    with refuses(RuntimeError, "depends on a tensor of shape [5] that is not one of model.param"):
        forward_with_penalty(model, x, chunk_size=3)


def test_a_tensor_that_is_no_parameter_of_a_model_that_is_not_trained():
    prompt, x = torch.ones(5, requires_grad=True), torch.randn(4, 6)
    model = Returning(lambda z: z * prompt).requires_grad_(False)
    with refuses(RuntimeError, "depends on a tensor of shape [5] that is not one of model.param"):
        forward_with_penalty(model, x)
    with torch.no_grad():
        forward_with_penalty(model, x)


def test_a_tensor_that_is_no_parameter_behind_a_layer_alone():
    factor = torch.ones(5, requires_grad=True)
    model = nn.Sequential(Returning(lambda z: z * factor), Returning(lambda z: z))
    model.forward = lambda x: (model[0](x), model[1](x))[1]
    with refuses(RuntimeError, "depends on a tensor of shape [5]"):
        forward_with_penalty(model, torch.randn(4, 6), layer="0")


def test_parameters_with_hooks(mlp):
    model, x, _ = mlp
    hook = model[2].weight.register_hook(lambda g: g)
    with refuses(
        RuntimeError, "must have no gradient hooks, which would run more than once; 2.wei"
    ):
        forward_with_penalty(model, x)
    hook.remove()
    forward_with_penalty(model, x)


def test_hooks_after_the_gradient_is_there_run_once(mlp):
    model, x, _ = mlp
    seen = []
    model[2].weight.register_post_accumulate_grad_hook(lambda p: seen.append(p.grad.clone()))
    logits, value = forward_with_penalty(model, x, penalty=Frobenius("exact"))
    (logits.sum() + value).backward()
    assert len(seen) == 1
    assert torch.equal(seen[0], model[2].weight.grad)


@pytest.mark.parametrize("transform", ["grad", "vjp", "jvp", "vmap", "dual", "inference"])
def test_transforms(mlp, transform):
    model, x, _ = mlp

    def penalty(x: Tensor) -> Tensor:
        return forward_with_penalty(model, x)[1]

    def dual() -> Tensor:
        with torch.autograd.forward_ad.dual_level(), torch.no_grad():
            return penalty(torch.autograd.forward_ad.make_dual(x, x))

    calls = {
        "grad": lambda: torch.func.grad(penalty)(x),
        "vjp": lambda: torch.func.vjp(penalty, x),
        "jvp": lambda: torch.func.jvp(penalty, (x,), (x,)),
        "vmap": lambda: torch.func.vmap(penalty)(x[None]),
        "dual": dual,
        "inference": lambda: torch.inference_mode()(penalty)(x),
    }
    with refuses(RuntimeError, "forward_with_penalty calls torch.autograd.grad, which"):
        calls[transform]()
