"""Penalties of half-precision models and under autocast, against float32."""

import pytest
import torch

from tests.nets import RTOL, build, relative_error
from tests.penalties.formulas import PENALTIES, seeded


@pytest.mark.parametrize("name", PENALTIES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_close_to_float32(name, dtype):
    """Of the same draw: its Gram-Schmidt is float32 in both."""
    values = {}
    for kind in (torch.float32, dtype):
        model, x = build("mlp", dtype=kind)
        x.requires_grad_()
        value = PENALTIES[name](model(x), x, torch.arange(4), generator=seeded())
        assert value.dtype == torch.float32
        value.backward()
        assert model[0].weight.grad.dtype == kind
        assert bool(model[0].weight.grad.isfinite().all())
        values[kind] = value
    assert relative_error(values[dtype], values[torch.float32]) < RTOL[dtype]


@pytest.mark.parametrize("inside", [True, False])
@pytest.mark.parametrize("name", PENALTIES)
def test_autocast_is_close_to_float32(name, inside):
    model, x = build("mlp", dtype=torch.float32)
    x.requires_grad_()
    y = torch.arange(4)
    want = PENALTIES[name](model(x), x, y, generator=seeded())
    with torch.autocast("cpu", torch.bfloat16):
        logits = model(x)
        if inside:
            got = PENALTIES[name](logits, x, y, generator=seeded())
    if not inside:
        got = PENALTIES[name](logits, x, y, generator=seeded())
    assert got.dtype == torch.float32
    assert relative_error(got, want) < RTOL[torch.bfloat16]
