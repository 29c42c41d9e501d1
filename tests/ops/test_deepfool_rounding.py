"""The DeepFool ops in every life, where a rounding too many or too early shows."""

import math

import pytest
import torch

from jacfast.ops import Nearest, deepfool_candidate, deepfool_step
from tests.ops.test_deepfool_step import INF, check, oracle, problem

TINY = torch.finfo(torch.float32).tiny

# dtype, scale of the rows, scale of the logits: r fits, (distance / norm) or its inverse does not
FAR = [
    (torch.float32, 1e-30, 1e-8),
    (torch.float32, 1e17, 1e-18),
    (torch.bfloat16, 1e-30, 1e-8),
    (torch.float64, 1e-150, 1e150),
    (torch.float64, 1e150, 1e-150),
]


def offer(life, logits, rows, order) -> Nearest:
    """Offer the classes after class 0, the origin, of samples one after another."""
    nearest = Nearest.empty(len(rows), rows.shape[2], rows)
    for k in order:
        label = torch.full((len(rows),), k, device=life.device)
        deepfool_candidate(rows[:, k] - rows[:, 0], logits[:, k] - logits[:, 0], label, nearest)
    return nearest


@pytest.mark.parametrize(("dtype", "rows_scale", "logits_scale"), FAR, ids=str)
def test_the_step_fits_where_its_length_over_the_norm_does_not(
    life, dtype, rows_scale, logits_scale
):
    logits, rows, _ = problem(life, 3, 4, 40, torch.float64)
    logits, rows = (logits * logits_scale).to(dtype), (rows * rows_scale).to(dtype)
    rows[:, 0], logits[:, 0] = 0, 0  # so that differences are exact in every dtype
    origin = torch.zeros(3, dtype=torch.int64, device=life.device)
    want, winner, _ = oracle(logits, rows, origin)
    rtol = 4 * torch.finfo(dtype).eps
    nearest = offer(life, logits, rows, range(1, 4))
    for r, got in (
        deepfool_step(logits, rows, origin)[:2],
        (nearest.step(), nearest.winner),
    ):
        assert got.tolist() == winner.tolist()
        bound = rtol * want.abs().amax(dim=1, keepdim=True)
        assert bool(((r.double().cpu() - want).abs() <= bound).all())


@pytest.mark.parametrize("size", [1, 9, 16])
def test_the_square_of_a_large_bfloat16_fits(life, size):
    """It is beyond float32, alone in what a GPU adds up at once, or beside others."""
    rows = torch.zeros(1, 2, size, dtype=torch.bfloat16, device=life.device)
    rows[0, 1, -1], logits = 2.0**100, torch.tensor([[0.0, 2.0**99]]).to(rows)
    origin = torch.zeros(1, dtype=torch.int64, device=life.device)
    r, winner, distance = deepfool_step(logits, rows, origin)
    nearest = offer(life, logits, rows, [1])
    for got in ((r, winner, distance), (nearest.step(), nearest.winner, nearest.distance)):
        assert [float(t.flatten()[-1]) for t in got] == [0.5, 1, 0.5]


def test_distances_that_round_to_the_same_number_are_ties(life):
    """1 and 1 / sqrt(1 + 1e-8): in float32 the same, so the lower class wins in any order."""
    rows = life.tensor([[[0.0, 0.0], [1.0, 0.0], [1.0, 1e-4]]])
    logits, origin = life.tensor([[1.0, 0.0, 0.0]]), life.tensor([0], dtype=torch.int64)
    assert deepfool_step(logits, rows, origin)[1].tolist() == [1]
    for order in ((1, 2), (2, 1)):
        assert offer(life, logits, rows, order).winner.tolist() == [1]


def test_distances_are_rounded_once(life):
    """|f| / ||w|| with the norm in float64: rounded to float32 first, 1 in 4 would be another."""
    logits, rows, _ = problem(life, 500, 2, 3)
    rows[:, 0], logits[:, 0] = 0, 0
    origin = torch.zeros(500, dtype=torch.int64, device=life.device)
    want = (logits[:, 1].double().abs() / rows[:, 1].double().norm(dim=1)).float()
    for distance in (deepfool_step(logits, rows, origin)[2], offer(life, logits, rows, [1])[1]):
        assert (distance == want).float().mean() >= 0.99


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_differences_of_half_types_are_not_rounded(life, dtype):
    """r is rounded once, at the end; of rounded differences a fifth of it would be another."""
    logits, rows, origin = problem(life, 5, 3, 257, dtype)
    want, _, distance = oracle(logits, rows, origin)
    got = deepfool_step(logits, rows, origin)
    assert (got[0].cpu() == want.to(dtype)).float().mean() >= 0.99
    torch.testing.assert_close(got[2].double().cpu(), distance, rtol=1e-6, atol=0)


@pytest.mark.parametrize(("norm", "winner"), [(TINY, -1), (TINY * (1 + 2**-20), 1)])
def test_the_shortest_usable_norm(life, norm, winner):
    rows, logits = life.tensor([[[0.0], [norm]]]), life.tensor([[0.0, TINY]])
    origin = life.tensor([0], dtype=torch.int64)
    _, found, distance = deepfool_step(logits, rows, origin)
    nearest = offer(life, logits, rows, [1])
    assert found.tolist() == nearest.winner.tolist() == [winner]
    want = INF if winner < 0 else TINY / norm
    assert distance.item() == nearest.distance.item() == pytest.approx(want, rel=1e-7, abs=0)


# Rows whose squares float32 loses, at sizes of one pack to a thread and of parts.
@pytest.mark.parametrize("scale", [1e-35, 1e-30, 1e-18, 1e-12, 1e-10, 1.0, 1e15, 1e18, 1e19, 1e36])
@pytest.mark.parametrize("size", [7, 64, 5000])
def test_distances_of_rows_of_any_size(life, scale, size):
    rows = life.randn(3, 4, size, seed=size) * scale
    rows[1, 1:3] *= 1e-2  # beside others, and not beside the origin
    rows[:, 0] = 0
    logits = life.randn(3, 4, seed=1)
    _, winner, distance = deepfool_step(logits, rows, life.tensor([0] * 3, dtype=torch.int64))
    nearest = offer(life, logits, rows, [1, 2, 3])
    norms = [[math.sqrt(math.fsum(v * v for v in row)) for row in of] for of in rows.tolist()]
    f = (logits - logits[:, :1]).double().abs().cpu()
    want = (f / torch.tensor(norms, dtype=torch.float64))[:, 1:].float().min(dim=1)
    assert distance.tolist() == nearest.distance.tolist() == want.values.tolist()
    assert winner.tolist() == nearest.winner.tolist() == (want.indices + 1).tolist()


@pytest.mark.parametrize("classes", [2, 3, 4, 5, 10, 11, 14, 15])
def test_each_class_of_a_sweep_counts(life, classes):
    """Whatever the number of classes, each can be the nearest, and the one beyond float32."""
    rows, logits = life.randn(classes, classes, 40, seed=classes), life.tensor([[0.0] * classes])
    logits = logits.repeat(classes, 1) + 1
    origin = torch.arange(classes, device=life.device)
    logits -= torch.eye(classes, device=life.device)  # of the origin
    for scale in (1e3, 1e-20, 1e20):
        made = rows.clone()
        made[origin, (origin + 1) % classes] *= scale
        check(deepfool_step(logits, made, origin), oracle(logits, made, origin), torch.float32)
