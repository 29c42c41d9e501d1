"""A function, partial, method or object around a model is treated as the model itself."""

import collections
import collections.abc
import functools
import itertools
import threading
import types
import warnings
import weakref

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import jacfast
from jacfast import evaluation
from jacfast.calling import Call, modules_of, quiet
from jacfast.calling.functions import looked_through
from jacfast.lipschitz import chain
from tests.nets import draw

X = draw(6, 6)
Y = torch.arange(6) % 4


def network() -> nn.Sequential:
    """Return a network in training mode whose eval mode gives other logits."""
    torch.manual_seed(0)
    norm = nn.BatchNorm1d(8)
    nn.init.normal_(norm.running_mean)
    nn.init.uniform_(norm.running_var, 0.2, 3.0)
    return nn.Sequential(nn.Linear(6, 8), norm, nn.Tanh(), nn.Linear(8, 4)).double()


MODEL = network()
HELD = types.SimpleNamespace(inner=types.SimpleNamespace(net=MODEL))


class Slots:
    __slots__ = ("net",)

    def __init__(self, net: nn.Module) -> None:
        self.net = net

    def __call__(self, x: Tensor) -> Tensor:
        return self.net(x)


class Experiment:
    """An object with a method that goes through another one."""

    def __init__(self, net: nn.Module) -> None:
        self.parts, self.images = {"nets": [net]}, list(range(10_000))

    def predict(self, x: Tensor) -> Tensor:
        return self._inner(x)

    def _inner(self, x: Tensor) -> Tensor:
        return self.parts["nets"][0](x)

    __call__ = predict


class ByClass:
    """An object whose class, not itself, knows the model."""

    def __call__(self, x: Tensor) -> Tensor:
        return MODEL(x)


def outer(net: nn.Module):
    def middle(x: Tensor) -> Tensor:
        def inner(z: Tensor) -> Tensor:
            return net(z)

        return inner(x)

    return middle


def decorated(net: nn.Module):
    @functools.wraps(net.forward)
    def call(*args, **kwargs):
        return net(*args, **kwargs)

    return call


def default(x: Tensor, net: nn.Module = MODEL) -> Tensor:
    return net(x)


def keyword(x: Tensor, *, net: nn.Module = MODEL) -> Tensor:
    return net(x)


def several(net: nn.Module, x: Tensor) -> Tensor:
    return net(x)


AROUND = {
    "lambda": lambda net: lambda x: net(x),
    "global": lambda net: lambda x: MODEL(x),
    "attribute of a global": lambda net: lambda x: HELD.inner.net(x),
    "default": lambda net: default,
    "keyword default": lambda net: keyword,
    "closures": outer,
    "decorated": decorated,
    "partial": functools.partial,
    "partial of a function": lambda net: functools.partial(several, net),
    "partial of partials": lambda net: functools.partial(functools.partial(lambda x: net(x))),
    "forward": lambda net: net.forward,
    "call": lambda net: net.__call__,
    "object": Experiment,
    "method": lambda net: Experiment(net).predict,
    "slots": Slots,
    "class": lambda net: ByClass(),
    "list": lambda net: lambda x, nets=([net],): nets[0][0](x),
    "chain of functions": lambda net: functools.reduce(
        lambda f, _: lambda x: f(x), range(5), lambda x: net(x)
    ),
    "weak reference": lambda net: functools.partial(lambda r, x: r()(x), weakref.ref(net)),
    "ordered": lambda net: functools.partial(
        lambda d, x: d["a"](x), collections.OrderedDict(a=net)
    ),
    "in a function of torch": lambda net: torch.enable_grad()(lambda x: net(x)),
    "a global in a function of torch": lambda net: torch.enable_grad()(lambda x: HELD.inner.net(x)),
}


@pytest.mark.parametrize("around", AROUND.values(), ids=AROUND)
@pytest.mark.filterwarnings("ignore:rho_adv")
def test_as_the_model_itself(around):
    model = around(MODEL)
    before = {name: value.clone() for name, value in MODEL.state_dict().items()}
    for call in (
        lambda m: jacfast.rho_adv(m, X),
        lambda m: jacfast.jacobian(m, X),
        lambda m: evaluation.decision_function(m, X, Y),
        lambda m: jacfast.deep_defense_penalty(m, X, Y).detach(),
    ):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            want, got = call(MODEL), call(model)
        assert torch.equal(torch.as_tensor(got), torch.as_tensor(want))
    assert all(module.training for module in MODEL.modules())
    assert all(torch.equal(value, before[name]) for name, value in MODEL.state_dict().items())
    with warnings.catch_warnings(record=True) as caught, quiet(model):
        assert not any(module.training for module in MODEL.modules())
        assert not any(p.requires_grad for p in MODEL.parameters())
    assert ["dropout or batch-norm in training mode" in str(w.message) for w in caught] == [True]


def test_what_has_nothing_inside():
    assert modules_of(lambda x: x) == []
    assert modules_of(torch.relu) == []
    assert modules_of(None) == []
    loop: list = []
    loop.append(loop)
    assert modules_of(functools.partial(lambda x: x, loop)) == []


def test_what_is_the_package_s_own_is_not_looked_through():
    """Every attack does it, and more than once: it must not cost what a backward pass does."""
    call = Call(MODEL, 6, (Y,))
    assert modules_of(call) == modules_of(MODEL)
    assert len(list(looked_through(call))) < 20
    assert len(list(looked_through(lambda x: F.normalize(MODEL(x))))) < 20


def test_a_data_set_beside_the_model_is_not_searched_for_ever():
    class Holder:
        def __init__(self) -> None:
            self.samples = [{"a": [i]} for i in range(300_000)]
            self.net = MODEL

    holder = Holder()
    assert MODEL in modules_of(lambda x: holder.net(x))


def test_a_property_is_not_called():
    class Trap:
        net = property(lambda self: pytest.fail("called"))

        def __call__(self, x: Tensor) -> Tensor:
            return x

    assert modules_of(Trap()) == []


def hidden(net: nn.Module):
    """Keep the model where no look reaches."""
    where = itertools.repeat(net)
    return lambda x: next(where)(x)


def test_a_model_that_is_not_found_draws_a_warning():
    model = hidden(MODEL)
    assert modules_of(model) == []
    text = r"ran a Sequential in training mode, which could not be found.*\.eval\(\)"
    for call in (
        lambda: jacfast.fgsm(model, X, eps=0.1, clip=None),
        lambda: evaluation.accuracy(model, X, Y),
        lambda: jacfast.jacobian(model, X),
    ):
        with pytest.warns(UserWarning, match=text) as caught:
            call()
        assert {w.filename for w in caught} == {__file__}
        assert len(caught) == 1
    assert not torch.nn.modules.module._global_forward_pre_hooks
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        evaluation.accuracy(hidden(network().eval()), X, Y)


def test_what_another_thread_runs_meanwhile_draws_no_warning():
    net, other = network().eval(), hidden(network())

    def model(x):
        thread = threading.Thread(target=other, args=(x,))
        thread.start()
        thread.join()
        return net(x)

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        evaluation.accuracy(model, X, Y)


def test_partials_without_arguments_have_the_layers_of_the_model():
    assert chain(MODEL) is None
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 4)).double()
    x = draw(400, 6)
    want, got = jacfast.deepfool(model, x), jacfast.deepfool(functools.partial(model), x)
    assert torch.equal(got.r, want.r)
    assert torch.equal(got.vjps, want.vjps)


def test_layers_made_on_the_spot_draw_no_warning_but_dropout_does():
    model = network().eval()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        jacfast.jacobian(lambda x: nn.Flatten()(nn.LogSoftmax(1)(model(x))), X)
    with pytest.warns(UserWarning, match="ran a Dropout in training mode"):
        jacfast.jacobian(lambda x: nn.Dropout(0.5)(model(x)), X)


class Centred(nn.Module):
    """Without parameters, and another one in eval mode."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.ones(4).double())

    def forward(self, x: Tensor) -> Tensor:
        return x - (x.mean(0) if self.training else self.mean)


def test_a_layer_that_has_nothing_but_a_buffer_draws_a_warning():
    model = network().eval()
    with pytest.warns(UserWarning, match="ran a Centred in training mode"):
        jacfast.jacobian(lambda x: Centred()(model(x)), X)


def test_a_model_that_raises_leaves_no_hook():
    def model(x):
        raise RuntimeError("of its own")

    with pytest.raises(RuntimeError, match="of its own"):
        evaluation.accuracy(model, X, Y)
    assert not torch.nn.modules.module._global_forward_pre_hooks


def test_an_object_that_cannot_be_looked_at_hides_only_itself():
    class Trap:
        def __getattribute__(self, name):
            raise RuntimeError(name)

    trap = Trap()
    assert MODEL in modules_of(lambda x: (trap, MODEL(x))[1])


def test_a_mapping_that_loads_its_values_is_left_alone():
    class Loads(collections.abc.Mapping):
        __getitem__ = __iter__ = lambda self, *key: pytest.fail("loaded")

        def __len__(self):
            return 3

    images = Loads()
    assert MODEL in modules_of(lambda x: (images, MODEL(x))[1])
