"""What a trace depends on: another one for each, and the right numbers after each change."""

import dataclasses
import functools
import warnings

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import jacfast.step.traced as traced
from jacfast import CrossLipschitz, Frobenius, InputGradient
from jacfast.penalties import Penalty
from tests.step.networks import build
from tests.step.steps import assert_same, fast, step
from tests.step.tracing import assert_as_plain, assert_traced, plans


@dataclasses.dataclass
class Inner:
    shift: float = 0.1


@dataclasses.dataclass
class Config:
    factor: float = 1.0
    powers: list = dataclasses.field(default_factory=lambda: [1, 2])
    inner: Inner = dataclasses.field(default_factory=Inner)


class Net(nn.Module):
    """A network that does what its attributes of many kinds say."""

    slope = 1.0

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(6, 7), nn.Linear(7, 5)
        self.factor, self.flag, self.sizes, self.act = 1.0, True, (1, 2), torch.tanh
        self.times = functools.partial(torch.mul, other=1.0)
        self.config, self.table = Config(), {"shift": 0.5}
        self.constant, self.second, self.listed = torch.ones(7), torch.ones(7), [None]
        self.array, self.chosen = np.ones(7), {1}
        self.register_buffer("mean", torch.zeros(6))

    def forward(self, x: Tensor) -> Tensor:
        h = self.act(self.first(x - self.mean)) * self.factor * self.config.factor
        h = self.times(h)
        h = h * self.constant * self.second * self.listed[0] + self.table["shift"] * sum(self.sizes)
        h = sum(h**power for power in self.config.powers) + self.config.inner.shift
        h = self.slope * h * torch.from_numpy(self.array) * len(self.chosen)
        h = F.dropout(h, 0.5, self.training and self.flag)
        return self.last(h)


def doubled(model, name):
    model.register_buffer(name, 2 * getattr(model, name))


CHANGES = {
    "eval mode": lambda m: m.eval(),
    "eval mode of a part": lambda m: m.last.eval(),
    "requires_grad": lambda m: m.first.weight.requires_grad_(False),
    "a number": lambda m: setattr(m, "factor", 2.0),
    "an equal number of another type": lambda m: setattr(m, "factor", 1),
    "a flag": lambda m: setattr(m, "flag", False),
    "a tuple": lambda m: setattr(m, "sizes", (1, 3)),
    "a function": lambda m: setattr(m, "act", torch.sigmoid),
    "a name of a partial": lambda m: setattr(m, "times", functools.partial(torch.mul, other=2.0)),
    "a number of an object": lambda m: setattr(m.config, "factor", 3.0),
    "a list of an object": lambda m: m.config.powers.append(3),
    "an object of an object": lambda m: setattr(m.config.inner, "shift", 1.0),
    "a set": lambda m: m.chosen.add(2),
    "an array": lambda m: m.array.__setitem__(0, 2.0),
    "the class": lambda m: setattr(type(m), "slope", 2.0),
    "an entry of a dictionary": lambda m: m.table.update(shift=-1.0),
    "a module": lambda m: setattr(m, "last", nn.Sequential(m.last, nn.Tanh())),
    "a bias": lambda m: setattr(m.first, "bias", None),
    "one tensor for two": lambda m: setattr(m, "second", m.constant),
    "a dtype": lambda m: m.float(),
}
SEEN = {  # without a new trace
    "a buffer": lambda m: doubled(m, "mean"),
    "a buffer in place": lambda m: m.mean.add_(1),
    "a tensor in an attribute": lambda m: setattr(m, "constant", torch.full((7,), 3.0).double()),
    "a tensor in a list": lambda m: m.listed.__setitem__(0, torch.full((7,), 3.0).double()),
    "a parameter": lambda m: setattr(m.last, "weight", nn.Parameter(m.last.weight.detach() * 2)),
}


def of_dtype(model: Net, dtype: torch.dtype) -> None:
    model.constant, model.second, model.listed = (torch.ones(7, dtype=dtype) for _ in range(3))
    model.listed, model.array = [model.listed], np.ones(7, dtype=str(dtype).split(".")[1])


def net() -> tuple[Net, Tensor, Tensor]:
    torch.manual_seed(0)
    model = type("Net", (Net,), {"slope": 1.0})().double()
    of_dtype(model, torch.float64)
    return model, torch.randn(4, 6).double(), torch.arange(4)


def assert_as_eager(model, x, y, penalty=None, **options):
    penalty = penalty or Frobenius(2)
    want = step(fast, model, x, y, penalty, **options)
    assert_same(step(fast, model, x, y, penalty, compiled="traced", **options), want, 1e-6)


@pytest.mark.parametrize("change", CHANGES | SEEN)
def test_a_change_of_the_model_is_seen(change):
    model, x, y = net()
    assert_as_eager(model, x, y)
    (CHANGES | SEEN)[change](model)
    x = x.to(model.last.weight.dtype if change == "a dtype" else x.dtype)
    if change == "a dtype":
        of_dtype(model, torch.float32)
    assert_as_eager(model, x, y)
    assert_traced(model, 1 if change in SEEN else 2)


def test_what_was_seen_before_is_found_again():
    model, x, y = net()
    for _ in range(3):
        for part in (4, 3):
            assert_as_eager(model, x[:part], y[:part])
        model.eval()
        assert_as_eager(model, x, y)
        model.train()
    assert_traced(model, 3)


@pytest.mark.parametrize(
    "change",
    [
        lambda x: x.float(),
        lambda x: x.t().contiguous().t(),
        lambda x: x.clone().requires_grad_(),
        lambda x: x[::2],
    ],
    ids=["dtype", "strides", "requires_grad", "shape"],
)
def test_a_change_of_x_is_seen(change):
    model, x, y = build("mlp", dtype=torch.float64)
    assert_as_eager(model, x, y)
    x = change(x)
    if x.dtype == torch.float32:
        model.float()
    assert_as_eager(model, x, y[: len(x)])
    assert_traced(model, 2)


class Conditioned(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 5)

    def forward(self, x, condition, scale=1.0, power=2):
        return self.linear((x * condition["first"]).tanh() ** power) * scale


def test_arguments_are_seen():
    torch.manual_seed(0)
    model, x, y = Conditioned().double(), torch.randn(4, 4).double(), torch.arange(4)
    for first in (torch.ones(4, 4).double(), torch.randn(4, 4).double()):
        assert_as_eager(model, x, y, args=({"first": first},))
    assert_traced(model, 1)
    assert_as_eager(model, x, y, args=({"first": torch.randn(4).double()},))
    assert_as_eager(model, x, y, args=({"first": 2.0},), kwargs={"power": 3})
    assert_as_eager(model, x, y, args=({"first": 2.0},), kwargs={"scale": 3})
    assert_traced(model, 4)


@dataclasses.dataclass(frozen=True)
class Own(Penalty):
    vector: Tensor | None = None
    factor: float = 1.0

    def cotangents(self, logits, x, y, draw):
        return (self.factor * self.vector).expand(1, *logits.shape)


class Plain(Own):
    """Whose power is no field of a dataclass."""

    def __init__(self, vector: Tensor, power: int) -> None:
        super().__init__(vector)
        object.__setattr__(self, "power", power)

    def measure(self, g):
        return super().measure(g) ** self.power


def test_penalties_are_seen():
    model, x, y = build("mlp")
    for i in range(2):
        weights = torch.linspace(i, 1, 5, dtype=torch.float64)
        assert_as_eager(model, x, y, Frobenius("exact", weights=weights))
    assert_traced(model, 1)
    assert_as_eager(model, x, y, CrossLipschitz(2))
    assert_as_eager(model, x, y, CrossLipschitz(3))
    assert_traced(model, 3)
    for i in range(3):
        vector = torch.full((5,), 1.0 + i, dtype=torch.float64)
        assert_as_eager(model, x, y, Own(vector, factor=1.0 if i < 2 else 2.0))
    assert_traced(model, 5)
    for power in (1, 2):
        assert_as_eager(model, x, y, Plain(vector, power))
    assert_traced(model, 7)


def test_labels_are_checked_in_every_call():
    model, x, y = build("mlp")
    for compiled in (None, "traced"):
        for labels in (y, y.roll(1)):
            fast(model, x, labels, InputGradient(), compiled=compiled)
        with pytest.raises(ValueError, match=r"y must lie in 0 \.\. K - 1 = 4; got 0 \.\. 5"):
            fast(model, x, y + (y == 3) * 2, InputGradient(), compiled=compiled)


@pytest.mark.parametrize("setting", ["autocast", "deterministic", "grad mode", "matmul"])
def test_settings_are_seen(setting):
    model, x, y = build("mlp", dtype=torch.float32)
    fast(model, x, y, Frobenius(), compiled="traced")
    try:
        if setting == "autocast":
            with torch.autocast("cpu", dtype=torch.bfloat16):
                logits, _ = fast(model, x, y, Frobenius(), compiled="traced")
            assert logits.dtype == torch.bfloat16
        elif setting == "grad mode":
            with torch.no_grad():
                assert not fast(model, x, y, Frobenius(), compiled="traced")[1].requires_grad
        else:
            if setting == "deterministic":
                torch.use_deterministic_algorithms(True)
            else:
                torch.set_float32_matmul_precision("medium")
            fast(model, x, y, Frobenius(), compiled="traced")
    finally:
        torch.use_deterministic_algorithms(False)
        torch.set_float32_matmul_precision("highest")
    assert_traced(model, 2)


def test_the_dtype_of_autocast_is_seen():
    model, x, y = build("mlp", dtype=torch.float32)
    for dtype in (torch.bfloat16, torch.float16):
        with torch.autocast("cpu", dtype=dtype):
            assert fast(model, x, y, Frobenius(), compiled="traced")[0].dtype == dtype
    assert_traced(model, 2)


class Made(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * torch.ones(5)


def test_the_default_dtype_is_seen():
    model, x = Made(6, 5), torch.randn(4, 6)
    for dtype in (torch.float32, torch.float64):
        torch.set_default_dtype(dtype)
        try:
            assert fast(model, x, None, Frobenius(), compiled="traced")[0].dtype == dtype
        finally:
            torch.set_default_dtype(torch.float32)
    assert_traced(model, 2)


def test_options_are_seen():
    model, x, y = build("mlp")
    kinds: list[dict] = [{}, {"at": x + 1}, {"precision": torch.bfloat16}, {"layer": "2"}]
    kinds += [{"at": x + 1, "layer": "2"}]
    for options in kinds:
        assert_as_eager(model, x, y, **options)
    assert_traced(model, len(kinds))


def test_too_many_kinds_of_calls_run_eager_with_one_warning():
    model, x, y = build("mlp", 12)
    for samples in range(1, 9):
        assert_as_plain(model, x[:samples], y[:samples], Frobenius(), compiled="traced")
    with pytest.warns(UserWarning, match="runs eager.*more than 8 kinds of calls"):
        assert_as_plain(model, x[:9], y[:9], Frobenius(), compiled="traced")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for samples in (3, 9, 10):
            assert_as_plain(model, x[:samples], y[:samples], Frobenius(), compiled="traced")
    assert_traced(model, traced.LIMIT)


def test_a_backend_that_is_none():
    model, x, y = build("mlp")
    with pytest.raises(ValueError, match=r"compiled must be one of traced, .*; got 'fast'"):
        fast(model, x, y, Frobenius(), compiled="fast")
    with pytest.raises(ValueError, match="must not be 'cudagraphs' for x on a cpu device"):
        fast(model, x, y, Frobenius(), compiled="cudagraphs")
    assert not plans(model)


def test_a_transform_and_inference_mode_are_seen_after_a_trace():
    model, x, y = build("mlp")
    with torch.no_grad():
        fast(model, x, y, Frobenius(), compiled="traced")
    with pytest.raises(RuntimeError, match="inference_mode"), torch.inference_mode():
        fast(model, x, y, Frobenius(), compiled="traced")
    with pytest.raises(RuntimeError, match=r"neither torch\.func transforms"):
        torch.func.grad(lambda x: fast(model, x, y, Frobenius(), compiled="traced")[1])(x)


@dataclasses.dataclass(frozen=True)
class Drawing(Penalty):
    """Of random vectors like the logits, from whatever source is given."""

    def draw(self, samples, logits, generator):
        return torch.randn_like(logits, generator=generator)

    def cotangents(self, logits, x, y, draw):
        return draw[None]


@pytest.mark.parametrize("source", [None, "default", "own"])
def test_draws_from_a_source(source):
    """The default generator, given by name, draws in turn with the model's dropout."""
    model, x, y = build("tutorial")
    for penalty in (Frobenius(), Drawing(), Frobenius(subsample=0.5)):
        found = []
        for compiled in (None, "traced", "traced"):
            torch.manual_seed(0)
            generator = torch.default_generator if source == "default" else None
            generator = torch.Generator().manual_seed(3) if source == "own" else generator
            options = {"generator": generator, "compiled": compiled}
            found.append([t.detach() for t in fast(model, x, y, penalty, **options)])
            found[-1].append(torch.rand(1))
        assert_same(found[1], found[0])
        assert_same(found[2], found[0])
    assert_traced(model, 3)
