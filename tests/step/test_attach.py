"""WithPenalty and penalised: the step as a module, and for code that calls the model by itself."""

import copy
import dataclasses
import threading
import types

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import jacfast
from jacfast import WGANGP, Frobenius, InputGradient, WithPenalty, penalised
from jacfast.penalties import Penalty
from tests.nets import relative_error
from tests.step.networks import SIX, build
from tests.step.steps import LAM, ROUNDING, assert_same, fast, gradient, loss_of, plain, step


def wrapped(model, x, y, penalty: Penalty, **options):
    return WithPenalty(model, penalty, **options)(x, y)


def attached(model, x, y, penalty: Penalty, **options):
    with penalised(model, y, penalty=penalty, **options) as held:
        logits = model(x)
    return logits, held.penalty


@pytest.mark.parametrize("way", [wrapped, attached])
@pytest.mark.parametrize("penalty", [Frobenius(2), InputGradient()])
@pytest.mark.parametrize("network", SIX)
def test_both_are_forward_with_penalty(network, penalty, way):
    model, x, y = build(network)
    assert_same(step(way, model, x, y, penalty), step(plain, model, x, y, penalty))
    got = step(way, model, x, y, penalty, chunk_size=3)
    assert all(map(torch.equal, got, step(fast, model, x, y, penalty, chunk_size=3)))


@pytest.mark.parametrize("attack", [jacfast.fgsm, jacfast.bim])
@pytest.mark.parametrize("before", [True, False])
def test_attacks_inside_get_logits_alone(attack, before):
    """As in adversarial training: they are no call that is to be penalised, nor the second one."""
    model, x, y = build("mlp")
    moved = attack(model, x, y, eps=0.1, clip=None)
    other = []

    def step_with_attack(model, x, y, penalty):
        with penalised(model, y, penalty=penalty) as held:
            if before:
                other.append(attack(model, x, y, eps=0.1, clip=None))
            logits = model(moved)
            if not before:
                other.append(attack(model, x, y, eps=0.1, clip=None))
        return logits, held.penalty

    got = step(step_with_attack, model, x, y, Frobenius(2))
    assert_same(got, step(plain, model, moved, y, Frobenius(2)))
    torch.testing.assert_close(other, [moved])


def test_the_module_has_the_models_parameters():
    model, _, _ = build("resnet")
    module = WithPenalty(model, Frobenius())
    assert list(module.state_dict()) == [f"model.{key}" for key in model.state_dict()]
    assert list(map(id, module.parameters())) == list(map(id, model.parameters()))
    other = copy.deepcopy(module).load_state_dict(module.state_dict())
    assert not other.missing_keys
    assert not module.eval().model.training


def test_what_a_penalty_learns_is_a_parameter_of_the_module():
    model, x, _ = build("mlp")
    weights = nn.Parameter(torch.linspace(1, 2, model(x).shape[1], dtype=x.dtype))
    module = WithPenalty(model, Frobenius("exact", weights=weights))
    assert list(module.state_dict())[-1] == "learned.weights"
    assert any(parameter is weights for parameter in module.parameters())
    other, want = copy.deepcopy(module), module(x)[1]
    (4 * other(x)[1]).backward()
    assert other.learned.weights.grad.any()
    assert weights.grad is None
    content = {key: value.clone() for key, value in module.state_dict().items()}
    content["learned.weights"] *= 4
    other.load_state_dict(content, assign=True)
    assert relative_error(other(x)[1], 4 * want) < ROUNDING
    got = torch.func.functional_call(module, {"learned.weights": content["learned.weights"]}, (x,))
    assert relative_error(got[1], 4 * want) < ROUNDING


@dataclasses.dataclass(frozen=True)
class Taught(Frobenius):
    net: nn.Module | None = dataclasses.field(default=None, kw_only=True)

    def cotangents(self, logits, x, y, draw):
        return super().cotangents(logits, x, y, draw) * self.net(logits.detach()[:1])


def test_what_takes_the_place_of_what_a_penalty_learns():
    """FSDP has plain tensors there, parametrisations compute them, others replace modules."""
    model, x, _ = build("mlp")
    weights = nn.Parameter(torch.linspace(1, 2, model(x).shape[1], dtype=x.dtype))
    module = WithPenalty(model, Frobenius("exact", weights=weights))
    want = module(x)[1]
    del module.learned.weights
    module.learned.weights = 4 * weights
    assert relative_error(module(x)[1], 4 * want) < ROUNDING
    module = WithPenalty(model, Taught("exact", net=nn.Linear(len(weights), 1).to(x)))
    module.learned.net = nn.Sequential(module.learned.net, nn.Hardtanh(2, 2 + 1e-9))
    assert relative_error(module(x)[1], 4 * fast(model, x, None, Frobenius("exact"))[1]) < 1e-6


def test_another_penalty_takes_the_place_of_one_that_learns():
    model, x, _ = build("mlp")
    weights = nn.Parameter(torch.full((model(x).shape[1],), 9.0).to(x))
    module = WithPenalty(model, Frobenius("exact", weights=weights))
    for penalty in (Frobenius("exact"), WGANGP()):
        module.penalty = penalty
        assert relative_error(module(x)[1], fast(model, x, None, penalty)[1]) < ROUNDING
        assert not list(module.learned.parameters())
    module.penalty = Frobenius("exact", weights=weights)
    assert module.learned.weights is weights
    with pytest.raises(TypeError, match=r"penalty must be a jacfast Penalty, .*; got str"):
        WithPenalty(model, "frobenius")(x)


def test_a_teacher_of_a_penalty_stays_in_its_mode():
    model, x, _ = build("mlp")
    classes = model(x).shape[1]
    teacher = nn.Sequential(nn.Linear(classes, 1), nn.Dropout()).to(x).eval().requires_grad_(False)
    module = WithPenalty(model, Taught("exact", net=teacher)).train()
    assert not teacher.training
    assert "learned" not in str(list(module.state_dict()))
    counting = nn.BatchNorm1d(1, affine=False)  # learns without parameters
    kept = WithPenalty(model, Taught("exact", net=counting)).state_dict()
    assert "learned.net.running_mean" in kept


def test_options_of_a_call_come_before_those_of_the_module():
    model, x, y = build("mlp")
    module = WithPenalty(model, Frobenius("exact", every=2), layer="0", step=1)
    assert module(x)[1] == 0
    inner = fast(model, x, y, Frobenius("exact"), layer="0")[1]
    assert relative_error(module(x, step=2)[1], 2 * inner) < ROUNDING
    outer = fast(model, x, y, Frobenius("exact"))[1]
    assert relative_error(module(x, step=2, layer=None)[1], 2 * outer) < ROUNDING


def training_step(model: nn.Module, batch) -> torch.Tensor:
    x, y = batch
    return F.cross_entropy(model(x), y)


def test_a_training_step_stays_as_it_is():
    model, x, y = build("cifar")
    with penalised(model, penalty=Frobenius("exact")) as held:
        loss = training_step(model, (x, y))
    got = gradient(loss + LAM * held.penalty, model)
    logits, value = plain(model, x, y, Frobenius("exact"))
    assert relative_error(got, gradient(loss_of(logits, value, y), model)) < ROUNDING
    assert "forward" not in vars(model)
    assert torch.equal(model(x), logits)


def test_no_call():
    model, x, _ = build("mlp")
    with penalised(model) as held:
        pass
    model(x)
    with pytest.raises(RuntimeError, match="the model was not called inside penalised"):
        _ = held.penalty


def test_two_calls():
    model, x, _ = build("mlp")
    with penalised(model) as held:
        model(x)
        with pytest.raises(RuntimeError, match="the model was called twice inside penalised"):
            model(x)
    assert held.penalty > 0
    assert "forward" not in vars(model)


@pytest.mark.parametrize("elsewhere", [False, True])
def test_a_model_is_inside_one_context_at_a_time(elsewhere):
    model, x, _ = build("mlp")
    before, said = dict(vars(model)), []

    def second():
        try:
            with penalised(model):
                model(x)
        except RuntimeError as error:
            said.append(str(error))

    with penalised(model) as held:
        if elsewhere:
            thread = threading.Thread(target=second)
            thread.start()
            thread.join()
        else:
            second()
        model(x)
    assert held.penalty > 0
    assert "one penalised(model) at a time; got one that is inside another" in said[0]
    second()
    assert len(said) == 1
    assert vars(model) == before


def test_one_argument_by_any_name():
    model, x, _ = build("mlp")
    with penalised(model, penalty=Frobenius("exact")) as held:
        model(input=x)
    assert relative_error(held.penalty, fast(model, x, None, Frobenius("exact"))[1]) < ROUNDING
    with penalised(model), pytest.raises(TypeError, match="takes 2 positional arguments but 3 "):
        model(x, x)


@pytest.mark.parametrize("own", [False, True])
def test_the_model_is_put_back_also_after_an_exception(own):
    model, x, y = build("mlp")
    if own:
        model.forward = types.MethodType(lambda self, x: 2 * nn.Sequential.forward(self, x), model)
    before = dict(vars(model))
    expected = plain(model, x, y, Frobenius("exact"))
    assert_same(attached(model, x, y, Frobenius("exact")), expected)
    assert vars(model) == before

    def outside():
        with penalised(model):
            model(x)
            raise KeyError

    def inside():
        with penalised(model) as held:
            with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
                model(x[:, :2])
            model(x)  # the call that failed does not count
        return held.penalty

    with pytest.raises(KeyError):
        outside()
    assert vars(model) == before
    assert inside() > 0
    with pytest.raises(ValueError, match="y must be given"):
        attached(model, x, None, InputGradient())
    assert vars(model) == before


def test_a_model_that_compiles_its_calls_goes_on_doing_so():
    model, x, _ = build("mlp")
    model.compile(backend="eager")
    before = dict(vars(model))
    with penalised(model, penalty=Frobenius("exact"), compiled="traced") as held:
        model(x)
    assert vars(model) == before
    assert relative_error(held.penalty, fast(model, x, None, Frobenius("exact"))[1]) < ROUNDING


def test_two_models_at_once():
    (one, x, y), (other, images, labels) = build("mlp"), build("cifar")
    with penalised(one) as first, penalised(other, penalty=Frobenius(2)) as second:
        loss = F.cross_entropy(other(images), labels) + F.cross_entropy(one(x), y)
    assert gradient(loss + first.penalty + second.penalty, one).norm() > 0
    assert first.penalty.item() != second.penalty.item()


def test_an_option_that_there_is_not():
    model, _, _ = build("mlp")
    for options in ({"typo": 1}, {"everything": True}):
        name = next(iter(options))
        with (
            pytest.raises(TypeError, match=rf"^options must be among at, .*; got {name}$"),
            penalised(model, **options),
        ):
            pass
