"""quiet: eval mode and no parameter gradients for a while, then everything as it was."""

import contextlib
import copy
import warnings

import pytest
import torch
import torch._dynamo
from torch import nn
from torch.nn.utils import prune

import jacfast
from jacfast.calling import quiet
from tests.nets import build, draw


def mixed() -> nn.Sequential:
    """Return a network whose flags are all different from a plain model's."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(6, 8),
        nn.BatchNorm1d(8),
        nn.Sequential(nn.ReLU(), nn.Dropout(0.5)),
        nn.Linear(8, 5),
    )
    model[1].eval()
    model[2][0].eval()
    model[3].weight.requires_grad_(False)
    model[0].weight.grad = torch.ones_like(model[0].weight)
    return model


def state(model: nn.Module) -> tuple:
    return (
        [module.training for module in model.modules()],
        [(p.requires_grad, p.grad is None) for p in model.parameters()],
    )


class Boom(Exception):
    pass


def enter(model: nn.Module, fails: bool) -> None:
    with contextlib.suppress(Boom), quiet(model):
        assert not any(module.training for module in model.modules())
        assert not any(p.requires_grad for p in model.parameters())
        if fails:
            raise Boom


@pytest.mark.parametrize("fails", [False, True])
def test_flags_come_back(fails):
    model = mixed()
    before = state(model)
    with pytest.warns(UserWarning, match="dropout or batch-norm in training mode"):
        enter(model, fails)
    assert state(model) == before


def test_nested():
    model = mixed().eval()
    before = state(model)
    with quiet(model):
        with quiet(model):
            pass
        assert not any(p.requires_grad for p in model.parameters())
    assert state(model) == before


@pytest.mark.parametrize("layer", [nn.Dropout(0.1), nn.Dropout2d(), nn.BatchNorm2d(2)])
def test_warns_of_layers_that_behave_otherwise_in_training(layer):
    model = nn.Sequential(nn.Conv2d(2, 2, 1), layer)
    with pytest.warns(UserWarning, match="evaluated in eval mode"), quiet(model):
        pass
    assert layer.training
    layer.eval()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with quiet(model):
            pass


def test_train_mode_of_plain_layers_draws_no_warning():
    model, x = build("cnn")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        jacfast.jacobian(model.train(), x)
    assert model.training


CALLS = {
    "jacobian": lambda model, x: jacfast.jacobian(model, x),
    "deepfool": lambda model, x: jacfast.deepfool(model, x).r,
    "fgsm": lambda model, x: jacfast.fgsm(model, x, eps=0.1, clip=None),
    "rho_adv": lambda model, x: jacfast.rho_adv(model, x),
    "pgd": lambda model, x: jacfast.pgd(
        model, x, eps=0.1, clip=None, restarts=2, generator=torch.Generator().manual_seed(0)
    ),
    "bim": lambda model, x: jacfast.bim(model, x, eps=0.1, clip=None),
    "carlini_wagner": lambda model, x: jacfast.carlini_wagner(
        model, x, steps=5, binary_steps=2, clip=(-9.0, 9.0)
    ),
    "ddn": lambda model, x: jacfast.ddn(model, x, steps=3, clip=(-9, 9)),
    "fmn": lambda model, x: jacfast.fmn(model, x, steps=3, clip=(-9, 9)),
    "minimal_norm": lambda model, x: jacfast.minimal_norm(model, x, budget=20, clip=None),
    "jsma": lambda model, x: jacfast.jsma(model, x, steps=2, clip=None),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_warning_points_at_the_caller(call):
    with pytest.warns(UserWarning, match="evaluated in eval mode") as caught:
        call(mixed().double(), draw(4, 6))
    assert {warning.filename for warning in caught} == {__file__}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_pending_graph_still_reaches_the_parameters(call):
    """Logits taken before the call are differentiated after it."""
    model, x = build("mlp")
    other = copy.deepcopy(model)
    logits = model(x)
    call(model, x)
    assert all(p.grad is None for p in model.parameters())
    logits.square().sum().backward()
    other(x).square().sum().backward()
    for p, q in zip(model.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad)


class Asking(torch.autograd.Function):
    """As the adjoint of an ODE, or a checkpoint of one's own: it asks for weights' gradients."""

    @staticmethod
    def forward(ctx, layer, x, *weights):
        ctx.layer, ctx.weights, ctx.x = layer, weights, x.detach()
        return layer(x)

    @staticmethod
    def backward(ctx, gradient):
        with torch.enable_grad():
            x = ctx.x.requires_grad_()
            found = torch.autograd.grad(ctx.layer(x), (x, *ctx.weights), gradient)
        return None, *found


class Asks(nn.Module):
    def __init__(self, how: str) -> None:
        super().__init__()
        self.first, self.last, self.how = nn.Linear(6, 8), nn.Linear(8, 5), how

    def forward(self, x):
        if self.how == "backward":
            return self.last(Asking.apply(self.first, x, *self.first.parameters()).tanh())
        weight, bias = self.first.parameters()
        with torch.enable_grad():  # a step on other samples
            loss = self.first(torch.ones(1, 6).to(x)).square().sum()
            weight = weight - 0.1 * torch.autograd.grad(loss, weight)[0].detach()
        return self.last(nn.functional.linear(x, weight, bias).tanh())


@pytest.mark.parametrize("how", ["backward", "forward"])
@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_a_model_that_asks_for_gradients_of_its_weights(call, how):
    """The same model with constants in the place of these is right without."""
    torch.manual_seed(0)
    model, x = Asks(how).double(), draw(4, 6)
    plain = nn.Sequential(copy.deepcopy(model.first), nn.Tanh(), copy.deepcopy(model.last))
    if how == "forward":
        loss = model.first(torch.ones(1, 6, dtype=x.dtype)).square().sum()
        with torch.no_grad():
            plain[0].weight -= 0.1 * torch.autograd.grad(loss, model.first.weight)[0]
    model.last.weight.requires_grad_(False)
    before = state(model)
    torch.testing.assert_close(call(model, x), call(plain, x))
    assert state(model) == before


@pytest.mark.parametrize("late", [False, True])
def test_a_model_that_asks_has_its_arguments_as_they_were(late):
    class Counts(Asks):
        def forward(self, x, cache):
            found = super().forward(x) if late else None
            cache.append(x)
            return (found if late else super().forward(x)) * len(cache)

    torch.manual_seed(0)
    model, x, cache = Counts("forward").double(), draw(4, 6), []
    plain = Asks("forward").double()
    plain.load_state_dict(model.state_dict())
    got = jacfast.jacobian(model, x, args=(cache,))
    torch.testing.assert_close(got, jacfast.jacobian(plain, x))
    assert not cache


COMPUTED = {
    "prune": lambda layer: prune.l1_unstructured(layer, "weight", 0.3),
    "weight_norm": nn.utils.weight_norm,
    "spectral_norm": nn.utils.spectral_norm,
    "cached": nn.utils.parametrizations.weight_norm,
}


@pytest.mark.parametrize("kind", COMPUTED)
@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
@pytest.mark.filterwarnings("ignore:.*weight_norm")
def test_weights_that_are_computed_in_a_call_reach_the_parameters(call, kind):
    """A term of `layer.weight` after an attack has the gradient that it has without."""
    model, x = build("mlp")
    layer = next(module for module in model.modules() if isinstance(module, nn.Linear))
    COMPUTED[kind](layer)
    model.eval()

    def gradient():
        own = list(layer.parameters())
        found = torch.autograd.grad(layer.weight.square().square().sum(), own, allow_unused=True)
        return [torch.zeros_like(p) if g is None else g for p, g in zip(own, found, strict=True)]

    model(x)
    want = gradient()
    cached = nn.utils.parametrize.cached if kind == "cached" else contextlib.nullcontext
    with cached():
        call(model, x)
        got = gradient()
    assert any(g.any() for g in want)
    for g, other in zip(got, want, strict=True):
        torch.testing.assert_close(g, other)


def test_an_attack_on_a_model_in_training_mode_iterates_no_power():
    model, x = build("mlp")
    layer = nn.utils.spectral_norm(next(m for m in model if isinstance(m, nn.Linear)))
    model.train()(x)
    before = layer.weight_u.clone()
    CALLS["fgsm"](model, x)
    assert torch.equal(layer.weight_u, before)


def test_a_pruned_model_that_could_be_copied_can_be_copied_after_an_attack():
    model, x = build("mlp")
    prune.l1_unstructured(next(m for m in model if isinstance(m, nn.Linear)), "weight", 0.3)
    with torch.no_grad():  # its weight has no graph
        model(x)
    CALLS["fgsm"](model, x)
    other = copy.deepcopy(model)
    torch.testing.assert_close(other(x), model(x))


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_caller_s_x_is_not_written_to(call):
    """Also where the model works in place on its input."""
    model, x = build("mlp")
    kept = x.clone()

    def inplace(x: torch.Tensor) -> torch.Tensor:
        return model(x.sub_(0.5))

    want = call(lambda x: model(x - 0.5), x)
    torch.testing.assert_close(call(inplace, x), want)
    assert torch.equal(x, kept)


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_wrapped_models(call):
    """A compiled module and a shared one keep their flags, and give what they gave."""
    inner, x = build("smooth_mlp")
    want = call(inner, x)
    torch._dynamo.reset()
    compiled = torch.compile(inner, backend="aot_eager")
    compiled.train()
    for model in (compiled, lambda x: compiled(x)):
        torch.testing.assert_close(call(model, x), want)
    assert compiled.training
    assert inner.training
    assert all(p.requires_grad for p in inner.parameters())
    torch._dynamo.reset()


def test_compiled_models_are_compiled_again_afterwards():
    model, x = build("smooth_mlp")
    torch._dynamo.reset()
    compiled = torch.compile(model, backend="aot_eager")
    with contextlib.suppress(Boom), quiet(compiled):
        assert compiled(x).grad_fn is None
        raise Boom
    assert "CompiledFunction" in compiled(x).grad_fn.name()
    torch._dynamo.reset()


@pytest.mark.parametrize("name", [*CALLS, "pgd.result"])
def test_inside_a_compiled_function_nothing_of_it_is_compiled(name):
    """One break: else every function of ours would be compiled, for each shape of a parameter."""
    (model, x), graphs = build("smooth_mlp"), []

    def attacked(model, x):
        found = jacfast.pgd.result(model, x, eps=0.1, steps=2, clip=None, random_start=False)
        return found.adversarial

    call = CALLS.get(name, attacked)

    def backend(graph, inputs):
        graphs.append(graph)
        return graph

    torch._dynamo.reset()
    compiled = torch.compile(lambda model, x: call(model, 2 * x) + 1, backend=backend)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        torch.testing.assert_close(compiled(model, x), call(model, 2 * x) + 1)
    assert not [each for each in said if "saved_tensors" in str(each.message)]
    assert len(graphs) <= 2  # before it, and behind
    torch._dynamo.reset()


def test_function_passes_through():
    with quiet(lambda x: x):
        pass
