"""What holds for every attack that returns a batch: layouts, dtypes, state, samples apart."""

import copy

import pytest
import torch
from torch import nn

import jacfast
from tests.nets import build, draw


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(3)


ATTACKS = {
    "fgsm": lambda m, x, y=None: jacfast.fgsm(m, x, y, eps=0.2),
    "bim": lambda m, x, y=None: jacfast.bim(m, x, y, eps=0.2),
    "bim-2-margin": lambda m, x, y=None: jacfast.bim(m, x, y, eps=0.7, p=2, loss="margin"),
    "pgd": lambda m, x, y=None: jacfast.pgd(m, x, y, eps=0.3, restarts=2, generator=seeded()),
    "pgd-2": lambda m, x, y=None: jacfast.pgd(m, x, y, eps=0.9, p=2, generator=seeded()),
    "carlini_wagner": lambda m, x, y=None: jacfast.carlini_wagner(
        m, x, y, steps=25, lr=0.1, binary_steps=3, initial_const=10.0
    ),
    "ddn": lambda m, x, y=None: jacfast.ddn(m, x, y, steps=20),
    "fmn": lambda m, x, y=None: jacfast.fmn(m, x, y, steps=20),
    "fmn-inf": lambda m, x, y=None: jacfast.fmn(m, x, y, steps=20, p=float("inf")),
    "minimal_norm": lambda m, x, y=None: jacfast.minimal_norm(m, x, y, budget=40),
    "minimal_norm-1": lambda m, x, y=None: jacfast.minimal_norm(m, x, y, budget=40, p=1),
    "minimal_norm-inf": lambda m, x, y=None: jacfast.minimal_norm(
        m, x, y, budget=40, p=float("inf")
    ),
    "jsma": lambda m, x, y=None: jacfast.jsma(m, x, y, steps=9, eps=0.3, outputs="probabilities"),
    "jsma-pairs": lambda m, x, y=None: jacfast.jsma(
        m, x, target=torch.ones(len(x), dtype=torch.int64), steps=4, pixels=2
    ),
}
ALL = pytest.mark.parametrize("attack", ATTACKS.values(), ids=ATTACKS)
APART = pytest.mark.parametrize(
    "attack", [pytest.param(a, id=name) for name, a in ATTACKS.items() if "pgd" not in name]
)


def batch(name: str = "cnn", samples: int = 6, dtype=torch.float64):
    model, x = build(name, samples=samples, dtype=dtype)
    return model, x.sigmoid()


@ALL
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_dtypes(attack, dtype):
    model, x = batch(dtype=dtype)
    got = attack(model, x)
    assert (got.dtype, got.shape) == (dtype, x.shape)
    assert not got.requires_grad
    assert bool(((got >= 0) & (got <= 1)).all())
    assert bool((got != x).flatten(1).any(1).any())


@pytest.mark.parametrize("p", [2, float("inf")])
def test_fmn_adds_up_steps_that_images_in_bfloat16_do_not_resolve(p):
    model, x = batch("smooth_mlp", samples=16, dtype=torch.float32)
    x = x.bfloat16()
    want, got = (
        jacfast.fmn.result(lambda z: model(z.float()), same, steps=60, p=p)
        for same in (x.float(), x)
    )
    assert bool(got.success.all())
    assert float(got.norm.mean()) == pytest.approx(float(want.norm.mean()), rel=0.02)


@ALL
def test_layouts(attack):
    model, x = batch()
    want = attack(model, x)
    wide = torch.zeros(*x.shape[:-1], 2 * x.shape[-1], dtype=x.dtype)
    wide[..., ::2] = x
    last = x.contiguous(memory_format=torch.channels_last)
    for same in (wide[..., ::2], x.transpose(0, 1).contiguous().transpose(0, 1), last):
        torch.testing.assert_close(attack(model, same), want)


@APART
def test_samples_alone_and_together(attack):
    model, x = batch()
    alone = torch.cat([attack(model, part) for part in x.split(1)])
    torch.testing.assert_close(attack(model, x), alone, rtol=0, atol=1e-7)


class Broken(nn.Module):
    """A network that answers NaN, or has a gradient that is NaN, for inputs with a mark."""

    def __init__(self, inner: nn.Module, kind: str) -> None:
        super().__init__()
        self.inner, self.kind = inner, kind

    def forward(self, x):
        marked = (x[:, 0, 0, 0] == 0.5)[:, None]
        z = self.inner(x)
        if self.kind == "logits":
            return z + torch.where(marked, float("nan"), 0.0)
        if self.kind == "infinite logits":
            return z + torch.where(marked, float("inf"), 0.0)
        zero = torch.where(marked, x.flatten(1)[:, 1:2] * 0, 1.0)  # d sqrt at 0 is infinite
        return z + zero.sqrt() - torch.where(marked, 0.0, 1.0)


@ALL
@pytest.mark.parametrize("kind", ["logits", "infinite logits", "gradient"])
def test_a_broken_sample_stays_alone(attack, kind):
    model, x = batch()
    x[2, 0, 0, 0] = 0.5
    y = model(x).argmax(1)
    want = attack(model, x, y)
    got = attack(Broken(model, kind), x, y)
    rest = [0, 1, 3, 4, 5]
    torch.testing.assert_close(got[rest], want[rest])
    assert bool(got[2].isfinite().all())


@APART
def test_a_sample_without_a_finite_gradient_is_unchanged(attack):
    model, x = batch()
    x[2, 0, 0, 0] = 0.5
    assert torch.equal(attack(Broken(model, "gradient"), x)[2], x[2])


@ALL
def test_nan_in_x_stays_in_its_sample(attack):
    model, x = batch()
    want = attack(model, x, model(x).argmax(1))
    x[2, 0, 3, 3] = float("nan")
    got = attack(model, x, model(x.nan_to_num()).argmax(1))
    rest = [0, 1, 3, 4, 5]
    torch.testing.assert_close(got[rest], want[rest])


@ALL
def test_nothing_is_changed(attack):
    model, x = batch("conv_batch_norm")
    want = attack(model, x)
    model.train()
    for p in list(model.parameters())[::2]:
        p.grad = torch.ones_like(p)
    x.requires_grad_()
    kept, before = x.detach().clone(), copy.deepcopy(model.state_dict())
    torch.manual_seed(5)
    state = torch.get_rng_state()
    with pytest.warns(UserWarning, match="evaluated in eval mode"), torch.no_grad():
        assert torch.equal(attack(model, x), want)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(x, kept)
    assert x.grad is None
    assert all(module.training for module in model.modules())
    for number, p in enumerate(model.parameters()):
        assert p.requires_grad
        assert (p.grad is None) == bool(number % 2)
        assert p.grad is None or bool((p.grad == 1).all())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@ALL
def test_two_classes_one_sample_predicted_labels(attack):
    model = nn.Linear(6, 2).double()
    model.weight.data, model.bias.data = draw(2, 6), torch.zeros(2).double()
    model.bias.data = -model.weight.data.sum(1) / 2
    x = draw(1, 6).div(20).add(0.5)
    y = model(x).argmax(1)
    got = attack(model, x)
    torch.testing.assert_close(got, attack(model, x, y))
    assert got.shape == x.shape
    # jsma-pairs leads to class 1; fmn's steps end on a linear boundary, on which side says rounding
    if attack not in (ATTACKS["jsma-pairs"], ATTACKS["fmn"], ATTACKS["fmn-inf"]):
        assert int(model(got).argmax()) != int(y)


@pytest.mark.parametrize(
    "attack",
    [
        lambda m, x: jacfast.ddn(m, x, levels=2),
        jacfast.fmn,
        lambda m, x: jacfast.fmn(m, x, p=float("inf")),
        jacfast.minimal_norm,
    ],
    ids=["ddn", "fmn", "fmn-inf", "minimal_norm"],
)
@pytest.mark.parametrize(("start", "corner"), [(0.5, 1), (0.0, 1), (1.0, 0)])
def test_the_farthest_corner_of_the_box_is_found_if_it_is_the_only_point(attack, start, corner):
    """Its class is another one, and no point of the box is farther from x."""

    def model(x):
        near = x if corner else 1 - x
        return torch.cat([0 * x + 0.6, torch.where(near < 1, 0.5 * near, near)], 1)

    x = torch.full((1, 1), start, dtype=torch.float64)
    assert float(attack(model, x)) == corner


@pytest.mark.parametrize(
    "attack",  # Adam makes steps of what is but rounded
    [
        pytest.param(attack, id=name)
        for name, attack in ATTACKS.items()
        if name not in ("pgd", "pgd-2", "carlini_wagner")
    ],
)
def test_pixels_that_the_network_does_not_look_at_play_no_part(attack):
    """Their gradient is zero: they stay, and the others move as if they were alone."""
    inner = nn.Linear(6, 3).double()
    inner.weight.data, inner.bias.data = 4 * draw(3, 6), draw(3, seed=1) / 9
    inner.bias.data -= inner.weight.data.sum(1) / 2
    x = (draw(5, 12).div(8).add(0.5).clamp(0, 1) * 255).round() / 255
    want = attack(inner, x[:, ::2])
    got = attack(lambda z: inner(z[:, ::2]), x)
    torch.testing.assert_close(got[:, ::2], want, rtol=0, atol=1e-5)
    torch.testing.assert_close(got[:, 1::2], x[:, 1::2], rtol=0, atol=1e-5)
    assert bool((got != x).any())


@pytest.mark.parametrize(
    "attack",
    [
        lambda *a, **k: jacfast.ddn(*a, init_norm=0.1, **k),
        jacfast.fmn,
        lambda *a, **k: jacfast.fmn(*a, p=float("inf"), **k),
    ],
    ids=["ddn", "fmn", "fmn-inf"],
)
def test_a_sample_rests_where_its_gradient_is_zero(attack):
    seen = []

    def model(x):
        seen.append(float(x.detach()))
        return torch.cat([0 * x + 1, 4 * x.clamp(max=0.55) - 1.6], dim=1)  # never so far

    attack(model, torch.full((1, 1), 0.5, dtype=torch.float64), steps=9)
    assert seen[2] > 0.55
    assert len(set(seen[2:])) == 1
