"""What would give a wrong gradient is an error."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from jacfast import Frobenius, InputGradient
from tests.nets import relative_error
from tests.step.networks import SIX, build
from tests.step.steps import ROUNDING, fast, gradient, loss_of, plain

MODIFIED = "modified by an inplace operation"


@pytest.mark.parametrize("network", SIX)
def test_backward_twice(network):
    model, x, y = build(network)
    loss = loss_of(*fast(model, x, y, Frobenius()), y)
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="a second time: its graphs are freed by the first"):
        loss.backward()


def test_both_outputs_one_after_the_other():
    model, x, y = build("mlp")
    logits, value = fast(model, x, y, Frobenius())
    F.cross_entropy(logits, y).backward()
    words = r"add the losses up and call backward once, or, for the gradient of each .* penalty\("
    with pytest.raises(RuntimeError, match=words):
        value.backward()


def test_gradients_one_by_one_are_those_of_the_one_line_way():
    """As those words say: what each loss wants of the parameters; together what the step does."""
    model, x, y = build("mlp")
    trained, penalty = list(model.parameters()), Frobenius("exact")
    leaf = x.detach().requires_grad_()
    logits = model(leaf)
    first = torch.autograd.grad(F.cross_entropy(logits, y), trained, retain_graph=True)
    second = torch.autograd.grad(penalty(logits, leaf), trained, allow_unused=True)
    both = [a if b is None else a + b for a, b in zip(first, second, strict=True)]
    again, value = fast(model, x, y, penalty)
    want = torch.autograd.grad(F.cross_entropy(again, y) + value, trained)
    for got, sum_ in zip(both, want, strict=True):
        torch.testing.assert_close(got, sum_)


def of_everything(total: Tensor, model: nn.Module) -> None:
    total.backward()


def of_the_parameters(total: Tensor, model: nn.Module) -> None:
    """As meta-learning and products with the Hessian do: PyTorch visits the ways to these alone."""
    torch.autograd.grad(total, list(model.parameters()))


@pytest.mark.parametrize("differentiate", [of_everything, of_the_parameters])
@pytest.mark.parametrize("penalty", [Frobenius(), InputGradient()])
@pytest.mark.parametrize("network", SIX)
def test_second_order(network, penalty, differentiate):
    model, x, y = build(network)
    loss = loss_of(*fast(model, x, y, penalty), y)
    grads = torch.autograd.grad(loss, list(model.parameters()), create_graph=True)
    with pytest.raises(
        RuntimeError, match="a gradient through forward_with_penalty was differentiated"
    ):
        differentiate(sum(g.square().sum() for g in grads), model)


def test_a_meta_gradient_beside_the_loss():
    """A path around the gradient leads to the parameters as well: fast weights are p - rate g."""
    model, x, y = build("mlp")
    named = dict(model.named_parameters())
    loss = loss_of(*fast(model, x, y, Frobenius()), y)
    grads = torch.autograd.grad(loss, list(named.values()), create_graph=True)
    moved = {name: p - 0.1 * g for (name, p), g in zip(named.items(), grads, strict=True)}
    outer = F.cross_entropy(torch.func.functional_call(model, moved, (x,)), y)
    with pytest.raises(RuntimeError, match="was differentiated"):
        torch.autograd.grad(outer, list(named.values()))


def test_a_gradient_in_the_weight_of_the_penalty():
    """It is in the loss by itself as well, as in a search for weights."""
    model, x, y = build("mlp")
    weight = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    logits, penalty = fast(model, x, y, Frobenius())
    loss = F.cross_entropy(logits, y) + weight * penalty
    grads = torch.autograd.grad(loss, list(model.parameters()), create_graph=True)
    with pytest.raises(RuntimeError, match="was differentiated"):
        torch.autograd.grad(sum(g.square().sum() for g in grads) + weight, weight)


def test_a_gradient_in_x():
    model, x, y = build("mlp")
    x.requires_grad_()
    loss = loss_of(*fast(model, x, y, Frobenius()), y)
    grads = torch.autograd.grad(loss, list(model.parameters()), create_graph=True)
    with pytest.raises(RuntimeError, match="was differentiated"):
        torch.autograd.grad(sum(g.square().sum() for g in grads), x)


def unless_modified(loss: Tensor, model: nn.Module) -> Tensor | None:
    """Return the gradient; None if torch says that something was modified in place."""
    try:
        return gradient(loss, model)
    except RuntimeError as error:
        if MODIFIED not in str(error):
            raise
        return None


@pytest.mark.parametrize("entering", ["both", "logits", "penalty"])
@pytest.mark.parametrize("penalty", [Frobenius("exact"), InputGradient()])
@pytest.mark.parametrize("network", ["mlp", "cifar", "resnet", "vit"])
def test_a_weight_that_changes_in_between(network, penalty, entering):
    """An error, or the gradient at the weights of the forward pass, where it is already there."""

    def loss(way) -> Tensor:
        logits, value = way(model, x, y, penalty)
        parts = {"both": loss_of(logits, value, y), "logits": F.cross_entropy(logits, y)}
        return parts.get(entering, value)

    model, x, y = build(network)
    names = [name for name, p in model.named_parameters() if p.dim() > 1]
    want, refused = gradient(loss(plain), model), 0
    for name in names:
        model, x, y = build(network)
        after = loss(fast)
        with torch.no_grad():
            model.get_parameter(name).mul_(2)
        got = unless_modified(after, model)
        refused += got is None
        assert got is None or relative_error(got, want) < ROUNDING
    assert refused > 0 or entering == "penalty"


@pytest.mark.parametrize("chunk", [None, 2])
@pytest.mark.parametrize("network", ["mlp", "cifar"])
def test_an_input_that_changes_in_between(network, chunk):
    """The model was given a copy: the gradient is that of the x of the call."""
    model, x, y = build(network)
    want = gradient(loss_of(*fast(model, x, y, Frobenius("exact"), chunk_size=chunk), y), model)
    loss = loss_of(*fast(model, x, y, Frobenius("exact"), chunk_size=chunk), y)
    x += 1
    assert relative_error(gradient(loss, model), want) < ROUNDING


def test_outputs_can_be_changed_in_place():
    model, x, y = build("cifar")
    for chunk in (None, 3):
        grads = []
        for way in (fast, plain):
            logits, value = way(model, x, y, Frobenius("exact"), chunk_size=chunk)
            logits /= 3
            value *= 2
            value += F.cross_entropy(logits, y)
            grads.append(gradient(value, model))
        assert relative_error(*grads) < ROUNDING


EXACT = Frobenius("exact")


class Side(nn.Module):
    """A model that leaves more behind than its logits."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(12, 6), nn.Linear(6, 5)
        self.of_x, self.of_h = nn.Linear(12, 3), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu(self.body(x))
        self.sides = {"x": self.of_x(x), "h": self.of_h(h), "hidden": h}
        return self.head(h)


def with_side(way, side, when, penalty=EXACT):
    """Return the gradients of a step that differentiates a side output, too."""
    torch.manual_seed(0)
    model, x, y = Side(), torch.randn(4, 12), torch.arange(4)
    loss = loss_of(*way(model, x, y, penalty), y)
    aside = model.sides[side].square().mean()
    losses = {"before": [aside, loss], "together": [loss + aside], "after": [loss, aside]}[when]
    for one in losses:
        one.backward(retain_graph=one is not losses[-1])
    return [p.grad for p in model.parameters()]


@pytest.mark.parametrize("when", ["together", "after"])
@pytest.mark.parametrize("side", ["h", "hidden"])
def test_a_side_output_whose_graph_is_freed_has_no_gradient(side, when):
    with pytest.raises(RuntimeError, match="that the model computed beside its logits"):
        with_side(fast, side, when)


@pytest.mark.parametrize("when", ["together", "after"])
@pytest.mark.parametrize("side", ["h", "hidden"])
@pytest.mark.parametrize("size", ["small"])
def test_a_side_output_of_a_small_network_has_its_gradient(side, when, size):
    """Of which the graph is autograd's own, where the Gram matrix does not pay."""
    found = (with_side(way, side, when, Frobenius()) for way in (fast, plain))
    for ours, want in zip(*found, strict=True):
        torch.testing.assert_close(ours, want)


@pytest.mark.parametrize(
    ("side", "when"),
    [("h", "before"), ("hidden", "before"), ("x", "before"), ("x", "together"), ("x", "after")],
)
def test_a_side_output_whose_graph_is_there_has_its_gradient(side, when, size):
    for ours, want in zip(with_side(fast, side, when), with_side(plain, side, when), strict=True):
        torch.testing.assert_close(ours, want)
