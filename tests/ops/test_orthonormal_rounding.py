"""orthonormal_cotangents in every life, where rounding errors would grow: nearly dependent rows."""

import pytest
import torch

from jacfast.ops import orthonormal_cotangents
from tests.ops.test_orthonormal_cotangents import check_properties, gram_schmidt
from tests.testing import TOLERANCE

GAPS = {torch.float32: 1e-4, torch.float64: 1e-10}


def check_definition(v: torch.Tensor, draw: torch.Tensor, centred: bool, atol: float) -> None:
    torch.testing.assert_close(v.double().cpu(), gram_schmidt(draw, centred), rtol=0, atol=atol)


@pytest.mark.parametrize("dtype", GAPS, ids=str)
@pytest.mark.parametrize("centred", [False, True])
def test_nearly_dependent_rows_are_made_orthogonal_and_kept(life, centred, dtype):
    """One pass would leave errors of eps/gap, 1e-3 here; what is left over is no rounding."""
    draw = life.randn(3, 4, 6, dtype=dtype)
    noise = life.randn(3, 4, 6, seed=1, dtype=dtype) * GAPS[dtype]
    draw[1, 1] = draw[1, 0] + noise[1, 1]
    draw[2, 3] = draw[2, 0] - draw[2, 2] + noise[2, 3]
    v = orthonormal_cotangents(draw, centred)
    check_properties(v, centred, 20 * TOLERANCE[dtype])
    check_definition(v, draw, centred, 0.02)


@pytest.mark.parametrize("dtype", GAPS, ids=str)
def test_nearly_constant_rows_are_centred_and_kept(life, dtype):
    draw = 1 + GAPS[dtype] * life.randn(3, 2, 6, dtype=dtype)
    v = orthonormal_cotangents(draw, True)
    check_properties(v, True, 20 * TOLERANCE[dtype])
    check_definition(v, draw, True, 0.02)


@pytest.mark.parametrize("centred", [False, True])
@pytest.mark.parametrize("first", [0, 1, 2])
def test_a_dependent_row_gives_way_to_the_first_unit_vector_that_is_not(life, first, centred):
    """Of rounding noise it is not made, and e_0 .. e_(first - 1) are among the rows before it."""
    draw = life.randn(2, 4, 8)
    draw[:, :first] = torch.eye(8, device=life.device)[:first]
    draw[:, 2] = draw[:, 0] - 3 * draw[:, 1]
    v = orthonormal_cotangents(draw, centred)
    draw[:, 2] = torch.eye(8, device=life.device)[first]
    check_definition(v, draw, centred, 1e-5)


@pytest.mark.parametrize("scale", [2.0**-60, 2.0**-20, 2.0**60])
def test_the_size_of_the_draw_does_not_matter(life, scale):
    draw = life.randn(3, 4, 6)
    draw[1, 2] = draw[1, 0]
    want = orthonormal_cotangents(draw)
    assert torch.equal(orthonormal_cotangents(draw * scale), want)


@pytest.mark.parametrize("centred", [False, True])
def test_long_sums_keep_full_precision(life, centred):
    """In sorted rows half of a sum comes before the other half, which takes it away again."""
    draw = life.randn(2, 3, 4096).sort(dim=2).values
    draw[:, 1] = draw[:, 1].abs()
    draw[:, 2] = draw[:, 2] * draw[:, 0]
    v = orthonormal_cotangents(draw, centred).double().cpu()
    v = v / v.norm(dim=2, keepdim=True)
    gram = v @ v.mT
    torch.testing.assert_close(gram, torch.eye(3).double().expand(2, 3, 3), rtol=0, atol=5e-8)
    if centred:
        assert v.sum(dim=2).abs().max() <= 5e-8 * 4096**0.5
