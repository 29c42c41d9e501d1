"""The unit of the images is nobody's choice: an attack of s x + t is that of x, times s, plus t."""

import functools
import math
from collections.abc import Callable

import pytest
import torch
from torch import nn

import jacfast
from jacfast.attacks.norms import lengths, shorten
from tests.nets import build, draw

INF = math.inf


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(3)


def target(x: torch.Tensor) -> torch.Tensor:
    return torch.arange(len(x)) % 5


# of (model, x, a length of 1 for x in 0 .. 1, the box)
ATTACKS = {
    "fgsm": lambda m, x, s, box: jacfast.fgsm(m, x, eps=0.1 * s, clip=box),
    "bim": lambda m, x, s, box: jacfast.bim(m, x, eps=0.1 * s, clip=box),
    "pgd": lambda m, x, s, box: jacfast.pgd(m, x, eps=0.1 * s, clip=box, generator=generator()),
    "pgd-2": lambda m, x, s, box: jacfast.pgd(
        m, x, eps=0.5 * s, p=2, clip=box, restarts=2, generator=generator()
    ),
    "carlini_wagner": lambda m, x, s, box: jacfast.carlini_wagner(
        m, x, steps=25, binary_steps=3, initial_const=10.0, lr=0.1, clip=box
    ),
    "ddn": lambda m, x, s, box: jacfast.ddn(m, x, steps=20, clip=box),
    "fmn": lambda m, x, s, box: jacfast.fmn(m, x, steps=20, clip=box),
    "fmn-inf": lambda m, x, s, box: jacfast.fmn(m, x, steps=20, p=INF, clip=box),
    "minimal_norm": lambda m, x, s, box: jacfast.minimal_norm(m, x, budget=40, clip=box),
    "minimal_norm-1": lambda m, x, s, box: jacfast.minimal_norm(m, x, budget=40, p=1, clip=box),
    "jsma": lambda m, x, s, box: jacfast.jsma(m, x, steps=9, eps=0.3 * s, clip=box),
    "jsma-pairs": lambda m, x, s, box: jacfast.jsma(
        m, x, target=target(x), steps=4, eps=0.3 * s, pixels=2, clip=box
    ),
    "deepfool": lambda m, x, s, box: jacfast.deepfool(m, x, clip=box).adversarial,
    "deepfool-free": lambda m, x, s, box: jacfast.deepfool(m, x).adversarial,
    "deepfool-inf": lambda m, x, s, box: (
        jacfast.deepfool(m, x, p=INF, floor=1e-3 * s, clip=box, clip_steps=True).adversarial
    ),
    "deepfool-cap": lambda m, x, s, box: jacfast.deepfool(m, x, max_norm=0.1 * s).adversarial,
    "superdeepfool": lambda m, x, s, box: (
        jacfast.deepfool(m, x, clip=box, variant="super").adversarial
    ),
}
ALL = pytest.mark.parametrize("attack", ATTACKS.values(), ids=ATTACKS)


@functools.cache
def usual(attack: Callable, dtype: torch.dtype) -> torch.Tensor:
    """Return what an attack finds from images in 0 .. 1."""
    model, x = build("cnn", samples=12, dtype=dtype)
    return attack(model, x.sigmoid(), 1.0, (0.0, 1.0))


@ALL
@pytest.mark.parametrize(("scale", "shift"), [(255.0, 0.0), (4.0, -2.0), (2.0**-40, 0.0)])
def test_the_unit_changes_nothing(attack, scale, shift):
    model, x = build("cnn", samples=12)
    x, want = x.sigmoid(), usual(attack, torch.float64)
    assert bool((want != x).flatten(1).any(1).any())

    def rescaled(z):
        return model((z - shift) / scale)

    got = attack(rescaled, scale * x + shift, scale, (shift, scale + shift))
    torch.testing.assert_close((got - shift) / scale, want, rtol=0, atol=1e-6)


def test_as_many_are_fooled_in_0_to_255_as_in_0_to_1():
    """In float32 and by the default constants: as many fooled, as far away."""
    model, x = build("cnn", samples=20, dtype=torch.float32)
    x = x.sigmoid()
    want = jacfast.carlini_wagner(model, x, steps=50)
    wide = nn.Sequential(Divide(), model)
    got = jacfast.carlini_wagner(wide, 255 * x, steps=50, clip=(0, 255))
    y = model(x).argmax(1)
    fooled = model(want).argmax(1) != y
    assert int(fooled.sum()) >= 18
    assert torch.equal(wide(got).argmax(1) != y, fooled)
    norms = [(a - x).flatten(1).norm(dim=1)[fooled].mean() for a in (want, got / 255)]
    assert float(norms[1] / norms[0]) == pytest.approx(1, rel=0.02)


class Divide(nn.Module):
    def forward(self, x):
        return x / 255


def test_a_tie_at_an_all_zero_image_is_crossed_in_any_unit():
    """||x|| = 0 is no length to go by: the box has one."""
    weight = draw(2, 6)
    for scale in (1.0, 2.0**-40, 2.0**10):
        got = jacfast.deepfool(lambda z, s=scale: z @ weight.T / s, draw(1, 6) * 0, clip=(0, scale))
        assert bool(got.success)
        assert float(got.norm) / scale < 1e-13


LARGE = [
    ("deepfool", lambda m, x: jacfast.deepfool(m, x)),
    ("deepfool-cap", lambda m, x: jacfast.deepfool(m, x, max_norm=3000.0)),
    ("deepfool-box", lambda m, x: jacfast.deepfool(m, x, clip=(0, 1000), clip_steps=True)),
    ("superdeepfool", lambda m, x: jacfast.deepfool(m, x, variant="super")),
]


@pytest.mark.parametrize("attack", [attack for _, attack in LARGE], ids=[name for name, _ in LARGE])
def test_float16_images_longer_than_float16_can_hold(attack):
    """||x|| is beyond 65,504; against the same attack of the same numbers in float32."""
    torch.manual_seed(0)
    x = (1000 * torch.rand(4, 20_000)).half()
    weight = torch.randn(3, 20_000) / 1000

    def model(z):
        return z.float() @ weight.T

    assert float(lengths(x).min()) > 65_504
    got, want = attack(model, x), attack(model, x.float())
    assert got.adversarial.dtype == torch.float16
    assert bool(got.adversarial.isfinite().all())
    assert bool(got.norm.isfinite().all())
    assert torch.equal(got.success, want.success)
    assert bool(got.success.all())
    torch.testing.assert_close(got.norm, want.norm, rtol=0.05, atol=0)
    rho = jacfast.evaluation.rho_of(got, x)
    assert rho == pytest.approx(jacfast.evaluation.rho_of(want, x.float()), rel=0.05)


@pytest.mark.parametrize("p", [2.0, INF])
def test_float16_gradient_attacks_on_long_images(p):
    torch.manual_seed(0)
    x = (1000 * torch.rand(4, 20_000)).half()
    weight = torch.randn(3, 20_000) / 1000
    eps = 70_000.0 if p == 2 else 100.0
    got = jacfast.pgd(
        lambda z: z.float() @ weight.T, x, eps=eps, p=p, clip=(0, 1000), generator=generator()
    )
    assert bool(got.isfinite().all())
    assert float(lengths(got - x, p).max()) <= eps * 1.01
    assert float(lengths(got - x, p).min()) > 0.1 * eps


@pytest.mark.parametrize("p", [1.5, 2.0, INF])
@pytest.mark.parametrize(
    ("dtype", "size"),
    [(torch.float16, 6e4), (torch.bfloat16, 1e30), (torch.float32, 1e30), (torch.float32, 1e-30)],
)
def test_lengths_against_float64(dtype, size, p):
    x = (size * draw(3, 2, 700).tanh()).to(dtype)
    want = x.double().flatten(1).norm(p, dim=1)
    torch.testing.assert_close(lengths(x, p).double(), want, rtol=1e-6, atol=0)
    half = shorten(x, float(want.min()) / 2, p)
    assert half.dtype == dtype
    close = want.new_full((3,), float(want.min()) / 2)
    torch.testing.assert_close(lengths(half, p).double(), close, rtol=0.01, atol=0)


@pytest.mark.parametrize("most", [0.0, 1e-50, 2.0, INF])
@pytest.mark.parametrize("p", [1.0, 2.0, INF])
def test_what_has_no_length_stays_whatever_the_limit(most, p):
    r = torch.tensor([[0.0, 0.0], [3.0, 4.0]])
    got = shorten(r, most, p)
    assert torch.equal(got[0], r[0])
    assert float(lengths(got, p)[1]) == pytest.approx(min(float(lengths(r, p)[1]), most))
