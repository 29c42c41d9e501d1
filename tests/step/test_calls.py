"""What a model is called with and returns beside x and logits, in every way to a step."""

import copy
import dataclasses
import io
import pickle
from collections import namedtuple
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from jacfast import (
    Frobenius,
    InputGradient,
    WithPenalty,
    evaluation,
    forward_with_penalty,
    penalised,
)
from tests.nets import relative_error
from tests.step.networks import build
from tests.step.steps import LAM, ROUNDING, gradient, loss_of

Pair = namedtuple("Pair", ["features", "logits"])


@dataclasses.dataclass(frozen=True)
class Found:
    logits: Tensor
    loss: Tensor | None


SHAPES = {  # what is made of (features, logits, loss), and what output= is
    "dictionary": (lambda f, z, loss: {"logits": z, "features": f, "loss": loss}, None),
    "another key": (lambda f, z, loss: {"z": z, "features": f, "loss": loss}, "z"),
    "tuple": (lambda f, z, loss: (loss, z, [f, None, 3]), 1),
    "named tuple": (lambda f, z, loss: Pair(f, z), None),
    "object": (lambda f, z, loss: Found(z, loss), None),
    "tensor": (lambda f, z, loss: z, None),
}


class Conditioned(nn.Module):
    """Logits of x under a mask and a scale, and what else there is."""

    def __init__(self, shape) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(6, 8), nn.Linear(8, 5)
        self.shape = shape

    def forward(self, x: Tensor, mask: Tensor, *, scale: float = 1.0, y: Tensor | None = None):
        features = F.gelu(self.body(x * mask))
        logits = scale * self.head(features)
        loss = None if y is None else F.cross_entropy(logits, y)
        return self.shape(features, logits, loss)


@pytest.fixture
def batch():
    """Return x [5, 6], a mask for each sample, and labels."""
    torch.manual_seed(0)
    return torch.randn(5, 6).double(), torch.rand(5, 6).round().double(), torch.arange(5)


def conditioned(shape=SHAPES["tensor"][0]) -> nn.Module:
    torch.manual_seed(1)
    return Conditioned(shape).double()


def by_hand(model, x, mask, y, rows=slice(None)):
    """Return logits, penalty of some rows, and the model's own loss, by plain autograd."""
    leaf = x.clone().requires_grad_()
    h = F.gelu(model.body(leaf * mask))
    z = 2.0 * model.head(h)
    total = 0
    for k in range(5):
        (g,) = torch.autograd.grad(z[:, k].sum(), leaf, create_graph=True)
        total = total + g[rows].square().sum()
    return h, z, total / len(x[rows]), F.cross_entropy(z, y)


@pytest.mark.parametrize("options", ["whole", "cut", "of a part", "elsewhere"])
@pytest.mark.parametrize("shape", SHAPES)
def test_further_arguments_and_outputs(batch, shape, options):
    x, mask, y = batch
    make, output = SHAPES[shape]
    model = conditioned(make)
    rows: Any = slice(None)
    more: dict[str, Any] = {"cut": {"chunk_size": 2}, "elsewhere": {"at": 0.5 * x}}.get(options, {})
    penalty = Frobenius("exact")
    if options == "of a part":
        rows = torch.randperm(5, generator=torch.Generator().manual_seed(3))[:2]
        penalty = Frobenius("exact", subsample=0.4)
        more["generator"] = torch.Generator().manual_seed(3)
    given = {"args": (mask,), "kwargs": {"scale": 2.0}, "output": output}
    if options != "cut":  # where a mean over the batch has no parts
        given["kwargs"]["y"] = y
    logits, value = forward_with_penalty(model, x, penalty=penalty, **given, **more)
    got = gradient(loss_of(logits, value, y), model)
    _, z, _, _ = by_hand(model, x, mask, y)
    at = 0.5 * x if options == "elsewhere" else x
    want = by_hand(model, at, mask, y, rows)[2]
    assert relative_error(logits, z) < ROUNDING
    assert relative_error(value, want) < ROUNDING
    assert relative_error(got, gradient(loss_of(z, want, y), model)) < ROUNDING


@pytest.mark.parametrize("shape", SHAPES)
def test_everything_that_is_returned_has_its_gradient_in_penalised(batch, shape):
    x, mask, y = batch
    make, output = SHAPES[shape]
    model = conditioned(make)
    h, z, want, loss = by_hand(model, x, mask, y)
    expected = make(h, z, loss)
    with penalised(model, penalty=Frobenius("exact"), output=output) as held:
        returned = model(x, mask, scale=2.0, y=y)
    assert type(returned) is type(expected)

    def total(found, value):
        leaves = torch.utils._pytree.tree_leaves(vars(found) if isinstance(found, Found) else found)
        tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
        return sum((i + 1) * t.square().mean() for i, t in enumerate(tensors)) + LAM * value

    reference = gradient(total(expected, want), model)
    assert relative_error(held.penalty, want) < ROUNDING
    assert relative_error(gradient(total(returned, held.penalty), model), reference) < ROUNDING


def test_the_loss_of_the_model_itself_and_nothing_else(batch):
    x, mask, y = batch
    model = conditioned(SHAPES["dictionary"][0])
    _, _, want, loss = by_hand(model, x, mask, y)
    reference = gradient(loss + LAM * want, model)
    with penalised(model, penalty=Frobenius("exact")) as held:
        returned = model(x, mask, scale=2.0, y=y)
    got = gradient(returned["loss"] + LAM * held.penalty, model)
    assert relative_error(got, reference) < ROUNDING


CALLS = {
    "by position": (None, lambda model, x, mask: model(x, mask)),
    "by keyword": (None, lambda model, x, mask: model(x=x, mask=mask)),
    "not the first": ("x", lambda model, x, mask: model(mask=mask, x=x)),
    "a position": (0, lambda model, x, mask: model(x, mask=mask)),
    "the second": (1, lambda model, x, mask: model(x, mask)),
}


@pytest.mark.parametrize("name", CALLS)
def test_which_argument_is_x(batch, name):
    x, mask, _ = batch
    model, (argument, call) = conditioned(), CALLS[name]
    with penalised(model, penalty=Frobenius("exact"), argument=argument) as held:
        call(model, x, mask)
    leaf, other = x.clone().requires_grad_(), mask.clone().requires_grad_()
    rows = [torch.autograd.grad(model(leaf, other)[:, k].sum(), (leaf, other)) for k in range(5)]
    which = int(name == "the second")
    want = sum(row[which].square().sum() for row in rows) / 5
    assert relative_error(held.penalty, want) < ROUNDING


class Tokens(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.head = nn.Embedding(10, 6), nn.Linear(6, 5)

    def forward(self, ids=None, mask=None, embedded=None):
        embedded = self.embedding(ids) if embedded is None else embedded
        return self.head((embedded * mask[..., None]).mean(1).tanh())


def test_token_models():
    torch.manual_seed(0)
    model, ids, mask = Tokens(), torch.randint(10, (4, 3)), torch.ones(4, 3)
    with penalised(model), pytest.raises(TypeError, match=r"argument 0 is torch\.int64"):
        model(ids, mask)
    text = "among 'mask', 'embedded'; argument 'x' is NoneType"
    with penalised(model, argument="x"), pytest.raises(TypeError, match=text):
        model(mask=mask, embedded=model.embedding(ids))
    embedded = model.embedding(ids).detach()
    with penalised(model, penalty=Frobenius("exact"), argument="embedded") as held:
        model(mask=mask, embedded=embedded)
    leaf = embedded.clone().requires_grad_()
    want = Frobenius("exact")(model(mask=mask, embedded=leaf), leaf)
    assert relative_error(held.penalty, want) < 1e-5


@pytest.mark.parametrize("penalty", [Frobenius("exact"), InputGradient()])
def test_one_number_for_each_sample(penalty):
    """A critic [N]: one row of J, as of [N, 1]."""
    torch.manual_seed(0)
    body = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 1)).double()

    class Critic(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = body

        def forward(self, x):
            return self.body(x)[:, 0]

    x, y = torch.randn(4, 6).double(), torch.zeros(4, dtype=torch.int64)
    column, of_column = forward_with_penalty(body, x, y, penalty=penalty)
    logits, value = WithPenalty(Critic(), penalty)(x, y)
    assert logits.shape == (4,)
    assert relative_error(logits, column[:, 0]) < ROUNDING
    assert relative_error(value, of_column) <= ROUNDING
    leaf = x.clone().requires_grad_()
    (g,) = torch.autograd.grad(body(leaf).sum(), leaf, create_graph=True)
    if isinstance(penalty, Frobenius):
        assert relative_error(value, g.square().sum(1).mean()) < ROUNDING
        want = gradient(body(x).square().sum() + g.square().sum(1).mean(), body)
        assert relative_error(gradient(logits.square().sum() + value, body), want) < ROUNDING


COPIES = {
    "deepcopy": copy.deepcopy,
    "pickle": lambda model: pickle.loads(pickle.dumps(model)),
    "torch.save": lambda model: saved(model),
    "copy": copy.copy,
}


def saved(model: nn.Module) -> nn.Module:
    file = io.BytesIO()
    torch.save(model, file)
    return torch.load(io.BytesIO(file.getvalue()), weights_only=False)


@pytest.mark.parametrize("when", ["before the call", "after it", "of what holds it"])
@pytest.mark.parametrize("name", COPIES)
def test_a_copy_made_inside_is_one_of_the_plain_model(name, when):
    model, x, _ = build("cifar")
    model.eval()
    whole = nn.Sequential(model)
    with penalised(model) as held:
        if when == "after it":
            model(x)
        other = COPIES[name](whole)[0] if when == "of what holds it" else COPIES[name](model)
        state = model.state_dict()
        if when != "of what holds it" or name != "copy":
            logits = other(x)
            other(x)  # as often as one likes
            assert logits.grad_fn.name() == "AddmmBackward0"
        if when != "after it":
            model(x)
    assert held.penalty > 0
    assert list(state) == list(model.state_dict())
    assert vars(other).keys() == vars(model).keys()
    assert torch.equal(other(x), model(x))


def test_what_is_not_called_as_a_model_says_so():
    model, x, _ = build("mlp")
    with penalised(model) as held:
        model.forward(x)
    with pytest.raises(RuntimeError, match=r"as model\(x\) \(model.forward\(x\) passes by\)"):
        _ = held.penalty


def test_unknown_options_are_an_error_before_the_call():
    model, _, _ = build("mlp")
    with pytest.raises(TypeError, match="nonsense"), penalised(model, nonsense=1):
        pass


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.head = nn.LSTM(4, 6, batch_first=True), nn.Linear(6, 5)

    def forward(self, x):
        return self.head(self.lstm(x)[0][:, -1])


def test_a_layer_that_returns_a_tuple():
    model, x = Recurrent(), torch.randn(3, 2, 4)
    with pytest.raises(TypeError, match=r"layer must return one tensor.*'lstm' returned a tuple"):
        forward_with_penalty(model, x, layer="lstm")
    assert not model.lstm._forward_hooks


def test_an_lstm_is_that_of_plain_autograd():
    model, x = Recurrent().double(), torch.randn(3, 2, 4).double()
    logits, value = forward_with_penalty(model, x, penalty=Frobenius("exact"))
    leaf = x.clone().requires_grad_()
    expected = model(leaf)
    want = Frobenius("exact")(expected, leaf)
    assert relative_error(value, want) < ROUNDING
    reference = gradient(expected.sum() + want, model)
    assert relative_error(gradient(logits.sum() + value, model), reference) < ROUNDING


def test_inference_mode_names_the_way_out():
    model, x, _ = build("mlp")
    with torch.inference_mode(), pytest.raises(RuntimeError, match="or with penalty=None"):
        WithPenalty(model)(x)


def test_without_a_penalty_inference_mode_and_transforms_get_the_logits():
    model, x, _ = build("mlp")
    pair, want = WithPenalty(model), model(x)
    with torch.inference_mode():
        logits, value = pair(x, penalty=None)
        assert torch.equal(logits, want)
        assert not value
        assert evaluation.accuracy(pair, x, want.argmax(dim=1)) == 1
    rows = torch.func.vmap(lambda row: pair(row[None], penalty=None)[0][0])(x)
    torch.testing.assert_close(rows, want)
    (of_x,) = torch.autograd.grad(model(leaf := x.clone().requires_grad_()).sum(), leaf)
    got = torch.func.grad(lambda x: pair(x, penalty=None)[0].sum())(x)
    torch.testing.assert_close(got, of_x)
