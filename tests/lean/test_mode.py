"""A model runs with lean layers for a while and is then what it was."""

import pytest
import torch
from torch import nn

from jacfast import deepfool, jacobian
from jacfast.lean import lean
from jacfast.vjp import pull_back
from tests.nets import build


class Own(nn.Conv2d):
    pass


def net(conv=nn.Conv2d):
    torch.manual_seed(0)
    return nn.Sequential(conv(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 3)).double()


def leaf(samples=2):
    torch.manual_seed(1)
    return torch.randn(samples, 1, 8, 8, dtype=torch.float64, requires_grad=True)


def layers_of(y):
    """Return the names of the nodes of a graph."""
    todo, names = [y.grad_fn], []
    while todo:
        node = todo.pop()
        if node is not None:
            names.append(node.name())
            todo += [following for following, _ in node.next_functions]
    return names


def test_the_model_is_as_it_was_also_after_an_error():
    model = net()
    before = dict(vars(model[0]))
    with lean(model):
        assert "_ConvBackward" in layers_of(model(leaf()))
    assert vars(model[0]) == before
    with pytest.raises(RuntimeError, match="shapes"), lean(model):
        model(torch.zeros(1, 1, 3, 99, dtype=torch.float64, requires_grad=True))
    assert vars(model[0]) == before
    assert "_ConvBackward" not in layers_of(model(leaf()))


def test_hooks_run_and_state_is_the_same():
    model, seen = net(), []
    model[0].register_forward_hook(lambda *_: seen.append("after"))
    state = model.state_dict()
    with lean(model):
        model(leaf())
        assert list(model.state_dict()) == list(state)
    assert seen == ["after"]


def own_forward():
    model = net()
    model[0].forward = lambda x: nn.Conv2d.forward(model[0], x)
    return model


def no_module():
    layer = net()[0]
    return lambda x: layer(x)


UNKNOWN = {
    "a subclass": lambda: net(Own),
    "a forward of its own": own_forward,
    "a parametrisation": lambda: nn.utils.parametrizations.weight_norm(net()[0]),
    "not a module": no_module,
    "many channels": lambda: nn.Sequential(nn.Conv2d(1, 5, 1), nn.Conv2d(5, 2, 1))[1:].double(),
}


@pytest.mark.parametrize("name", UNKNOWN)
def test_what_it_does_not_know_is_left_alone(name):
    model = UNKNOWN[name]()
    x = leaf() if name != "many channels" else leaf().expand(-1, 5, -1, -1)
    before = dict(vars(model[0])) if isinstance(model, nn.Sequential) else None
    with lean(model):
        y = model(x)
        assert "_ConvBackward" not in layers_of(y)
    assert torch.equal(y, model(x))
    assert before is None or vars(model[0]) == before


def test_a_layer_without_a_weight_of_its_own():
    model = net()
    model[0].weight = None
    with lean(model):
        assert "forward" not in vars(model[0])


def test_a_compiled_part_is_not_touched():
    model = nn.Sequential(net(), nn.Linear(3, 2).double())
    model[1].compile(backend="eager")
    compiled = nn.Sequential(torch.compile(net(), backend="eager"))
    for one in (model, compiled):
        with lean(one):
            assert not any(
                "forward" in vars(module)
                for module in one.modules()
                if isinstance(module, nn.Conv2d)
            )


@pytest.mark.parametrize(
    "options",
    [
        {"groups": 2},
        {"dilation": 2},
        {"stride": (1, 2)},
        {"padding": "same"},
        {"padding": 3},
        {"padding": 1, "padding_mode": "circular"},
    ],
    ids=str,
)
def test_other_convolutions_go_the_stock_way(options):
    torch.manual_seed(0)
    layer = nn.Conv2d(2, 4, 3, **options).double()
    x = torch.randn(2, 2, 9, 9, dtype=torch.float64, requires_grad=True)
    with lean(layer):
        y = layer(x)
    assert y.grad_fn.name() == "ConvolutionBackward0"


def test_transforms_autocast_and_no_grad_go_the_stock_way():
    model, x = net().float(), leaf().detach().float()
    with lean(model):
        rows = torch.func.vmap(torch.func.jacrev(lambda z: model(z[None])[0]))(x)
        _, tangent = torch.func.jvp(model, (x,), (torch.ones_like(x),))
        with torch.autocast("cpu", torch.bfloat16):
            half = model(x.requires_grad_())
        with torch.no_grad():
            plain = model(x)
    assert half.dtype == torch.bfloat16
    assert "_ConvBackward" not in layers_of(half)
    assert plain.grad_fn is None
    torch.testing.assert_close(rows, jacobian(model, x))
    torch.testing.assert_close(tangent, rows.sum((2, 3, 4)))


def test_batched_rows_are_the_looped_ones(monkeypatch):
    model, x = net(), leaf(3)
    vectors = torch.randn(4, 3, 3, dtype=torch.float64)
    with lean(model):
        y = model(x)
    batched = pull_back(y, x, vectors, create_graph=False)
    called = []
    monkeypatch.setattr("jacfast.vjp._grad", lambda *a, **k: called.append(k["batched"]))
    with pytest.raises(AttributeError):
        pull_back(y, x, vectors, create_graph=False)
    assert called == [True]
    looped = [torch.autograd.grad(model(x), x, v)[0].flatten(1) for v in vectors]
    torch.testing.assert_close(batched, torch.stack(looped))


def test_deepfool_of_a_convolution_uses_them(monkeypatch):
    """The result is that of the stock layers; that they were used shows in a broken one."""
    model, x = build("cnn", 6)
    got = deepfool(model, x)
    stock = deepfool(lambda z: model(z), x)
    torch.testing.assert_close(got.r, stock.r)
    monkeypatch.setattr("jacfast.lean.conv.by_blocks", lambda g, w, shape, *_: g.new_zeros(shape))
    assert bool(deepfool(model, x).stalled.any())
