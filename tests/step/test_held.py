"""What else training loops do to a model, beside the step."""

import copy
import gc
import weakref

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from jacfast import Frobenius, InputGradient, forward_with_penalty, penalised
from jacfast.lean import Sweep
from jacfast.step.pending import Pending
from tests.nets import relative_error
from tests.step.networks import build
from tests.step.steps import LAM, ROUNDING, fast, gradient, loss_of, plain


@pytest.mark.parametrize("network", ["mlp", "convnext"])
def test_lbfgs_calls_the_step_as_often_as_it_likes(network):
    weights = []
    for way in (fast, plain):
        model, x, y = build(network)
        model.eval()
        optimizer = torch.optim.LBFGS(model.parameters(), max_iter=5, line_search_fn="strong_wolfe")

        def closure(model=model, x=x, y=y, way=way, optimizer=optimizer):
            optimizer.zero_grad()
            loss = loss_of(*way(model, x, y, Frobenius("exact")), y)
            loss.backward()
            return loss

        for _ in range(2):
            optimizer.step(closure)
        weights.append(nn.utils.parameters_to_vector(model.parameters()).detach())
    start = nn.utils.parameters_to_vector(build(network)[0].parameters()).detach()
    assert relative_error(*weights) < 1e-6
    assert relative_error(start, weights[1]) > 1e-3


class LoRA(nn.Module):
    """A frozen linear layer and a trained product of small rank."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.layer = layer.requires_grad_(False)
        self.down = nn.Parameter(torch.randn(2, layer.in_features, dtype=torch.float64))
        self.up = nn.Parameter(torch.randn(layer.out_features, 2, dtype=torch.float64))

    def forward(self, x):
        return self.layer(x) + F.linear(F.linear(x, self.down), self.up)


@pytest.mark.parametrize("penalty", [Frobenius("exact"), InputGradient()])
def test_adapters_of_small_rank(penalty):
    torch.manual_seed(0)
    layers = [LoRA(nn.Linear(6, 8).double()), nn.ReLU(), LoRA(nn.Linear(8, 5).double())]
    model, x, y = nn.Sequential(*layers), torch.randn(4, 6).double(), torch.arange(4)
    got, want = (gradient(loss_of(*way(model, x, y, penalty), y), model) for way in (fast, plain))
    assert relative_error(got, want) < ROUNDING
    assert all(p.grad is None for p in model.parameters())


def held_by(model, x, penalty):
    """Return logits and penalty by a call that the context takes over."""
    with penalised(model, penalty=penalty) as held:
        return model(x), held.penalty


def called_by(model, x, penalty):
    return forward_with_penalty(model, x, penalty=penalty)


@pytest.mark.parametrize("kind", ["full_backward", "full_backward_pre"])
@pytest.mark.parametrize("way", [held_by, called_by])
@pytest.mark.parametrize("network", ["mlp", "convnext"])
def test_backward_hooks_of_modules_see_the_gradients_and_change_nothing(way, network, kind, size):
    model, x, y = build(network)
    want = gradient(loss_of(*plain(model, x, y, Frobenius("exact")), y), model)
    seen = {model: [], model[0]: []}
    for module, found in seen.items():
        register = getattr(module, f"register_{kind}_hook")
        register(lambda *call, found=found: found.append(call[-1][0]))
    logits, value = way(model, x, Frobenius("exact"))
    pulled = {module: len(found) for module, found in seen.items()}
    assert relative_error(gradient(loss_of(logits, value, y), model), want) < ROUNDING
    assert all(len(found) == pulled[module] + 1 for module, found in seen.items())
    of_loss = (logits.detach().softmax(1) - F.one_hot(y, logits.shape[1])) / len(y)
    torch.testing.assert_close(seen[model][-1], of_loss)


def live() -> list:
    gc.collect()
    kinds = torch.Tensor | Pending | Sweep
    return [one for one in gc.get_objects() if issubclass(type(one), kinds)]


def new_since(before: list) -> list:
    """What is there now and was not; other tests' tensors may go in the meantime."""
    known = {id(one) for one in before}
    return [one for one in live() if id(one) not in known]


@pytest.mark.parametrize("options", [{}, {"chunk_size": 2}, {"at": True}, {"subsample": 0.5}])
@pytest.mark.parametrize("network", ["cifar", "vit"])
def test_nothing_is_kept_from_step_to_step(network, options):
    """Not by the garbage collector either: graphs go when the last name goes."""
    model, x, y = build(network, 6)
    options = dict(options)
    if options.pop("at", False):
        options["at"] = x.clone()
    penalty = Frobenius(2, subsample=options.pop("subsample", 1.0))

    def one() -> weakref.ref:
        logits, value = forward_with_penalty(model, x, y, penalty=penalty, **options)
        node = value.grad_fn.next_functions[0][0]  # behind the division by N
        loss_of(logits, value, y).backward()
        return weakref.ref(node)

    for _ in range(2):
        one()
    before = live()
    gc.disable()
    try:
        nodes = [one() for _ in range(3)]
        assert all(node() is None for node in nodes)
    finally:
        gc.enable()
    assert not new_since(before)


@pytest.mark.parametrize("network", ["cifar", "vit"])
def test_a_step_that_is_given_up_keeps_nothing(network):
    model, x, y = build(network)
    for _ in range(2):
        fast(model, x, y, Frobenius())
    before = live()
    for _ in range(3):
        fast(model, x, y, Frobenius())
        with pytest.raises(ValueError, match="n must be in"):
            fast(model, x, y, Frobenius(99))
    assert not new_since(before)


def test_tied_weights_stay_tied():
    torch.manual_seed(0)
    first, last = nn.Linear(6, 6).double(), nn.Linear(6, 6).double()
    last.weight = first.weight
    model, x, y = nn.Sequential(first, nn.Tanh(), last), torch.randn(4, 6).double(), torch.arange(4)
    other = copy.deepcopy(model)
    assert other[0].weight is other[2].weight
    for way, one in ((fast, model), (plain, other)):
        optimizer = torch.optim.SGD(one.parameters(), 0.1)
        for _ in range(3):
            optimizer.zero_grad()
            logits, value = way(one, x, y, Frobenius("exact"))
            (F.cross_entropy(logits, y) + LAM * value).backward()
            optimizer.step()
    assert model[0].weight is model[2].weight
    assert relative_error(model[0].weight, other[0].weight) < ROUNDING
