"""at, layer and precision: where the penalty is evaluated, of what, and in which numbers."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from jacfast import CrossLipschitz, Frobenius, InputGradient, Spectral, forward_with_penalty
from tests.nets import RTOL, brute_force, relative_error
from tests.step.networks import SIX, build
from tests.step.steps import LAM, ROUNDING, assert_same, fast, gradient, loss_of, plain


def elsewhere(x: Tensor) -> Tensor:
    return 0.5 * x.flip(0) + 0.1


@pytest.mark.parametrize("chunk", [None, 3])
@pytest.mark.parametrize("penalty", [Frobenius("exact"), InputGradient(), Spectral()])
@pytest.mark.parametrize("network", SIX)
def test_at_other_points(network, penalty, chunk):
    model, x, y = build(network)
    model.eval()
    steps = []
    for way in ("fast", "plain"):
        torch.manual_seed(0)
        leaf, at = x.clone().requires_grad_(), elsewhere(x).requires_grad_()
        if way == "fast":
            logits, value = fast(model, leaf, y, penalty, at=at, chunk_size=chunk)
        else:
            logits, value = model(leaf), penalty(model(at), at, y)
        of_all = gradient(loss_of(logits, value, y), model, leaf, at)
        steps.append((logits, value, of_all))
    assert torch.equal(steps[0][0], steps[1][0])
    assert_same(*steps)


def test_at_of_a_part():
    model, x, y = build("cifar", 6)
    at = elsewhere(x)
    part, source = Frobenius(2, subsample=0.5), torch.Generator().manual_seed(3)
    logits, value = fast(model, x, y, part, at=at, generator=source)
    source = torch.Generator().manual_seed(3)
    chosen = torch.randperm(6, generator=source)[:3]
    _, want = plain(model, at[chosen], y[chosen], Frobenius(2), generator=source)
    got = gradient(loss_of(logits, value, y), model)
    assert relative_error(got, gradient(loss_of(model(x), want, y), model)) < ROUNDING


@pytest.mark.parametrize(
    ("network", "layer"),
    [
        *[("mlp", str(i)) for i in range(5)],
        *[("tutorial", str(i)) for i in (0, 2, 7)],
        *[("cifar", str(i)) for i in (1, 4, 6)],
        *[("resnet", str(i)) for i in (3, 4, 5)],
        *[("convnext", str(i)) for i in (0, 2)],
    ],
)
def test_an_inner_layer(network, layer):
    """Against the layers up to that one, as a model of their own."""
    model, x, y = build(network)
    model.eval()
    want, grads = brute_force(model[: int(layer) + 1], x)
    expected = torch.cat(
        [grads[n].flatten() if n in grads else p.flatten() * 0 for n, p in model.named_parameters()]
    )
    expected += gradient(F.cross_entropy(model(x), y), model) / LAM
    for chunk in (None, 2):
        logits, value = fast(model, x, y, Frobenius("exact"), layer=layer, chunk_size=chunk)
        assert relative_error(logits, model(x)) < ROUNDING
        assert relative_error(value, want) < ROUNDING
        got = gradient(loss_of(logits, value, y), model) / LAM
        assert relative_error(got, expected) < ROUNDING


@pytest.mark.parametrize("layer", ["blocks.0", "blocks.1.qkv", "norm"])
@pytest.mark.parametrize("penalty", [Frobenius(2), CrossLipschitz("exact")])
def test_an_inner_layer_by_its_dotted_name(layer, penalty):
    model, x, y = build("vit")
    seen = []
    hook = model.get_submodule(layer).register_forward_hook(lambda *call: seen.append(call[2]))
    leaf = x.clone().requires_grad_()
    logits = model(leaf)
    hook.remove()
    torch.manual_seed(0)
    value = penalty(seen[0], leaf)
    torch.manual_seed(0)
    got = fast(model, x, y, penalty, layer=layer)
    assert relative_error(got[1], value) < ROUNDING
    want = gradient(loss_of(logits, value, y), model)
    assert relative_error(gradient(loss_of(*got, y), model), want) < ROUNDING
    assert not model.get_submodule(layer)._forward_hooks


def test_hooks_of_the_users_on_the_layer_stay():
    model, x, _ = build("mlp")
    seen = []
    model[0].register_forward_hook(lambda *call: seen.append(call[2]))
    for calls in (1, 2):
        forward_with_penalty(model, x, layer="0")
        assert len(seen) == calls
    assert len(model[0]._forward_hooks) == 1


class Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.used, self.never = nn.Linear(6, 6), nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        return self.used(self.used(x))


@pytest.mark.parametrize(("layer", "calls"), [("used", 2), ("never", 0)])
def test_a_layer_that_is_not_called_once(layer, calls):
    model, x = Twice(), torch.randn(4, 6)
    with pytest.raises(
        ValueError, match=f"layer must be called once.*'{layer}' was called {calls}"
    ):
        forward_with_penalty(model, x, layer=layer)
    assert not model.used._forward_hooks


def test_an_unknown_layer():
    model, x, y = build("mlp")
    with pytest.raises(ValueError, match=r"layer must name a submodule, one of 0, .*; got 'nope'"):
        fast(model, x, y, Frobenius(), layer="nope")


def test_a_layer_that_is_changed_in_place():
    model, x, y = build("cifar")
    with pytest.raises(ValueError, match="that of '0' was changed in place"):
        fast(model, x, y, Frobenius(), layer="0")


@pytest.mark.parametrize("precision", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("penalty", [Frobenius("exact"), InputGradient(), CrossLipschitz("exact")])
@pytest.mark.parametrize("network", SIX)
def test_precision(network, penalty, precision):
    model, x, y = build(network, dtype=torch.float32)
    model.eval()
    logits, value = fast(model, x, y, penalty, precision=precision)
    assert torch.equal(logits, model(x))
    assert logits.dtype == value.dtype == torch.float32
    (_, want), bound = plain(model, x, y, penalty), 2 * RTOL[precision]
    assert relative_error(value, want) < bound
    assert relative_error(gradient(value, model), gradient(want, model)) < bound
    assert value != want.detach()  # it did take another way


def test_an_interrupt_as_a_layer_is_listened_to_leaves_no_hook(monkeypatch):
    model, x, _ = build("mlp")
    usual = nn.Module.register_forward_hook

    def interrupted(*args, **kwargs):
        usual(*args, **kwargs)
        raise KeyboardInterrupt

    monkeypatch.setattr(nn.Module, "register_forward_hook", interrupted)
    with pytest.raises(KeyboardInterrupt):
        forward_with_penalty(model, x, layer="0")
    assert not any(module._forward_hooks for module in model.modules())
