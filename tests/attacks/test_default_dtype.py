"""The dtype that new tensors have by default is nobody's choice either."""

from collections.abc import Iterator

import pytest
import torch

import jacfast
from tests.attacks.test_units import ALL, usual
from tests.nets import build


@pytest.fixture(params=[torch.float64, torch.bfloat16, torch.float16], ids=str)
def under(request: pytest.FixtureRequest) -> Iterator[torch.dtype]:
    before = torch.get_default_dtype()
    yield request.param
    torch.set_default_dtype(before)


@ALL
def test_attacks_are_the_same(attack, under):
    model, x = build("cnn", samples=12, dtype=torch.float32)
    want = usual(attack, torch.float32)
    torch.set_default_dtype(under)
    assert torch.equal(attack(model, x.sigmoid(), 1.0, (0.0, 1.0)), want)


def test_constants_near_one_are_not_rounded(under):
    """The radius of DDN shrinks and grows by a thousandth; in bfloat16 that would be by nothing."""
    model, x = build("cnn", samples=12, dtype=torch.float32)
    options = {"steps": 30, "gamma": 0.001, "levels": None}
    want = jacfast.ddn(model, x.sigmoid(), **options)
    torch.set_default_dtype(under)
    assert torch.equal(jacfast.ddn(model, x.sigmoid(), **options), want)


def test_the_report_is_the_same(under):
    model, x = build("cnn", samples=12, dtype=torch.float32)
    x, options = x.sigmoid(), {"budget": 20, "steps": 5, "restarts": 2}
    y = model(x).argmax(dim=1)

    def report() -> dict:
        torch.manual_seed(0)
        return jacfast.robustness_report(model, x, y, **options).to_dict()

    want = report()
    torch.set_default_dtype(under)
    assert report() == want


@pytest.mark.parametrize("name", ["mlp", "cnn", "conv_batch_norm", "layer_norm_gelu"])
def test_penalties_and_measures_are_the_same(name, under):
    model, x = build(name, dtype=torch.float32)

    def found() -> list[torch.Tensor]:
        torch.manual_seed(0)
        leaf = x.clone().requires_grad_()
        return [
            jacfast.frobenius_penalty(model(leaf), leaf, 2).detach(),
            *(t.detach() for t in jacfast.forward_with_penalty(model, x)),
            jacfast.jacobian(model, x),
        ]

    want = found()
    torch.set_default_dtype(under)
    for got, expected in zip(found(), want, strict=True):
        assert got.dtype == expected.dtype
        assert torch.equal(got, expected)
