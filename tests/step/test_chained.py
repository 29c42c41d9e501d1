"""Arguments with a graph of their own: what an earlier call returned, a condition, a prompt."""

import pytest
import torch
from torch import nn

from jacfast import Frobenius, forward_with_penalty, penalised
from jacfast.step import run
from tests.nets import relative_error
from tests.step.steps import ROUNDING

pytestmark = pytest.mark.filterwarnings("error:forward_with_penalty runs")
EXACT = Frobenius("exact")
COMPILED = [None, "traced"]


class Cell(nn.Module):
    """A recurrent cell whose state is whatever `kind` makes of it."""

    def __init__(self, kind: type[nn.Module], width: int) -> None:
        super().__init__()
        self.cell = kind(width, width)

    def forward(self, x, state):
        new = self.cell(x, state)
        return new if isinstance(new, tuple) else (new, new)


class Conditioned(nn.Module):
    """A network of x, of a condition of each sample and of a scale that all share."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(6, 4), nn.Linear(4, 3)

    def forward(self, x, condition, scale):
        return self.last((self.first(x) * scale["of all"] + condition).tanh())


def plain(model, x, *args, at=None):
    """Return logits and exact penalty by double backward."""
    at = (x if at is None else at).detach().requires_grad_()
    return model(x, *args), EXACT(_first(model(at, *args)), at)


def _first(returned):
    return returned[0] if isinstance(returned, tuple) else returned


def gradients(loss, *inputs):
    found = torch.autograd.grad(loss, inputs, materialize_grads=True)
    return torch.cat([g.flatten() for g in found])


@pytest.fixture(params=["node", "plain"])
def _way(request, size, monkeypatch) -> None:
    """Let the graph be the node's, or autograd's own where it may be."""
    monkeypatch.setattr(run, "has_few_products", lambda *_: request.param == "plain")


@pytest.mark.parametrize("kind", [nn.GRUCell, nn.LSTMCell])
@pytest.mark.parametrize("compiled", COMPILED)
@pytest.mark.usefixtures("_way")
def test_a_loop_whose_state_is_an_argument(kind, compiled):
    torch.manual_seed(0)
    model, inputs = Cell(kind, 5).double(), torch.randn(3, 4, 5).double()

    def loop(call):
        start = torch.zeros(4, 5).double()
        state, total = (start, start) if kind is nn.LSTMCell else start, 0.0
        for x in inputs:
            output, value = call(x, state)
            state, total = (output if kind is nn.LSTMCell else output[0]), total + value
        return gradients(total + output[0].square().sum(), *model.parameters())

    want = loop(lambda x, state: plain(model, x, state))

    def ours(x, state):
        with penalised(model, penalty=EXACT, compiled=compiled, output=0) as held:
            returned = model(x, state)
        return returned, held.penalty

    assert relative_error(loop(ours), want) < ROUNDING


@pytest.mark.parametrize("compiled", COMPILED)
@pytest.mark.parametrize("options", [{}, {"chunk_size": 2}, {"at": 0.1}, {"precision": None}])
@pytest.mark.usefixtures("_way")
def test_arguments_get_their_gradient(options, compiled):
    torch.manual_seed(0)
    model, x = Conditioned().double(), torch.randn(5, 6).double()
    options = options | ({"at": x + options["at"]} if "at" in options else {})
    prompt = torch.randn(4).double().requires_grad_()  # a leaf that is none of the model's
    encoder = nn.Linear(6, 4).double()
    trained = [*model.parameters(), *encoder.parameters(), prompt]

    def loss(logits, value, condition):
        return logits.square().sum() + value + condition.sum()

    condition = encoder(x)
    found = plain(model, x, condition, {"of all": prompt}, at=options.get("at"))
    want = gradients(loss(*found, condition), *trained)
    condition = encoder(x)
    found = forward_with_penalty(
        model,
        x,
        penalty=EXACT,
        args=(condition,),
        kwargs={"scale": {"of all": prompt}},
        compiled=compiled,
        **options,
    )
    assert relative_error(gradients(loss(*found, condition), *trained), want) < ROUNDING


def test_an_argument_that_is_computed_from_x_and_one_that_is_a_parameter():
    torch.manual_seed(0)
    model, x = Conditioned().double(), torch.randn(5, 6).double().requires_grad_()
    trained = [*model.parameters(), x]

    def given():
        return x[:, :4].sin(), {"of all": model.first.bias}

    condition, scale = given()
    at = x.detach().requires_grad_()
    value = EXACT(model(at, condition, scale), at)
    # the penalty's gradient in x beside that through the condition
    (own,) = torch.autograd.grad(value, at, retain_graph=True)
    loss = model(x, condition, scale).square().sum() + value + (own.detach() * x).sum()
    want = gradients(loss, *trained)
    condition, scale = given()
    logits, value = forward_with_penalty(
        model, x, penalty=EXACT, args=(condition,), kwargs={"scale": scale}
    )
    assert relative_error(gradients(logits.square().sum() + value, *trained), want) < ROUNDING


def test_a_hook_on_an_argument_sees_its_gradient_whole():
    torch.manual_seed(0)
    model, x = Conditioned().double(), torch.randn(5, 6).double()
    leaf, seen = torch.randn(5, 4).double().requires_grad_(), []
    condition = leaf * 1
    condition.register_hook(seen.append)
    scale = {"of all": torch.ones(4).double()}
    logits, value = plain(model, x, condition, scale)
    (want,) = torch.autograd.grad(logits.square().sum() + value, condition)
    seen.clear()
    logits, value = forward_with_penalty(
        model, x, penalty=EXACT, args=(condition,), kwargs={"scale": scale}
    )
    (logits.square().sum() + value).backward()
    assert len(seen) == 1
    assert relative_error(seen[0], want) < ROUNDING
    assert torch.equal(leaf.grad, seen[0])
