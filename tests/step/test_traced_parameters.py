"""A traced step gives each parameter its own gradient, wherever else the model keeps it."""

import pytest
import torch
from torch import nn

from jacfast import Frobenius, WithPenalty, forward_with_penalty, penalised
from tests.nets import relative_error
from tests.step.steps import ROUNDING
from tests.step.tracing import IN_THIS_PROCESS, assert_traced


class Net(nn.Module):
    """Three layers, of which the middle one is called through `middle`."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 3)

    def middle(self, h):
        return self.b(h)

    def forward(self, x):
        return self.c(torch.tanh(self.middle(torch.tanh(self.a(x)))))


class InList(Net):
    def __init__(self) -> None:
        super().__init__()
        self.path = [self.b]

    def middle(self, h):
        return self.path[0](h)


class BoundMethod(Net):
    def __init__(self) -> None:
        super().__init__()
        self.inner = {"call": self.b.forward}

    def middle(self, h):
        return self.inner["call"](h)


class OfAnObject(Net):
    def __init__(self) -> None:
        super().__init__()
        self.all = type("Holder", (), {})()
        self.all.layers = (self.c, self.b, self.a)


class ParametersInList(Net):
    """Whose own list comes before the layer that has them."""

    def __init__(self) -> None:
        super().__init__()
        self.decayed = [self.c.weight, self.b.weight]


class HiddenTeacher(Net):
    """A network beside, which is not trained, though its parameters could be."""

    def __init__(self, used: bool = False) -> None:
        super().__init__()
        self.teacher, self.used = [nn.Linear(6, 6)], used

    def to(self, dtype):
        self.teacher[0].to(dtype)
        return super().to(dtype)

    def middle(self, h):
        if not self.used:
            return super().middle(h)
        with torch.no_grad():
            target = self.teacher[0](h)
        return super().middle(h) * target


class AllThree(HiddenTeacher):
    """A layer in a list, parameters in one that comes before it, and a teacher that is called."""

    def __init__(self) -> None:
        super().__init__(used=True)
        self.decayed, self.path = [self.c.weight, self.b.weight], [self.b]

    def middle(self, h):
        with torch.no_grad():
            target = self.teacher[0](h)
        return self.path[0](h) * target


class Tied(Net):
    """The last layer is registered under two names, and its bias is another's as well."""

    def __init__(self) -> None:
        super().__init__()
        self.z, self.y = nn.ModuleList([self.c]), [self.b, self.c]
        self.a.bias = self.b.bias


NETS = {
    "plain": Net,
    "in a list": InList,
    "a bound method": BoundMethod,
    "of an object": OfAnObject,
    "parameters in a list": ParametersInList,
    "a teacher": HiddenTeacher,
    "a teacher, called": lambda: HiddenTeacher(used=True),
    "all three": AllThree,
    "tied": Tied,
    "partly frozen": lambda: InList().requires_grad_(False),
}


def build(name: str):
    torch.manual_seed(0)
    model = NETS[name]().to(torch.float64)
    if name == "partly frozen":
        model.b.requires_grad_(True)
    return model, torch.randn(4, 6).double()


def by_function(model, x, penalty, **options):
    return forward_with_penalty(model, x, penalty=penalty, **options)


def by_module(model, x, penalty, **options):
    return WithPenalty(model, penalty, **options)(x)


def by_context(model, x, penalty, **options):
    with penalised(model, penalty=penalty, **options) as held:
        logits = model(x)
    return logits, held.penalty


def gradients(model, logits, value):
    named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    loss = logits.square().sum() + value
    found = torch.autograd.grad(loss, [p for _, p in named], materialize_grads=True)
    return {name: gradient for (name, _), gradient in zip(named, found, strict=True)}


def assert_own_gradients(model, x, way, **options) -> None:
    """Compare each parameter's gradient with autograd's, at the recording and in a replay."""
    leaf = x.clone().requires_grad_()
    logits = model(leaf)
    want = gradients(model, logits, Frobenius("exact")(logits, leaf))
    for _ in range(2):
        got = gradients(model, *way(model, x, Frobenius("exact"), **options))
        assert {n: relative_error(got[n], g) < ROUNDING for n, g in want.items()} == dict.fromkeys(
            want, True
        )


@pytest.mark.parametrize("way", [by_function, by_module, by_context])
@pytest.mark.parametrize("name", NETS)
def test_each_parameter_has_its_own(name, way, never_eager):
    model, x = build(name)
    assert_own_gradients(model, x, way, compiled="traced")
    assert_traced(model, 1)


@pytest.mark.slow
@IN_THIS_PROCESS
@pytest.mark.filterwarnings("error:Inductor could not compile")
def test_compiled_by_inductor(never_eager):
    model, x = build("all three")
    assert_own_gradients(model, x, by_function, compiled="inductor")
    assert_traced(model, 1)


def test_a_second_pass(never_eager):
    model, x = build("in a list")

    def of_penalty(**options):
        _, value = forward_with_penalty(model, x, penalty=Frobenius("exact"), at=x / 2, **options)
        return torch.autograd.grad(value, list(model.parameters()), materialize_grads=True)

    want = of_penalty()
    for _ in range(2):
        for got, other in zip(of_penalty(compiled="traced"), want, strict=True):
            assert relative_error(got, other) < ROUNDING
