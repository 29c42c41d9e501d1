"""How the gradients of a step's sweeps are added up."""

import gc
import weakref

import pytest
import torch
from torch import nn

from jacfast import Frobenius, forward_with_penalty
from jacfast.step.gradients import Gradients
from tests.nets import draw
from tests.step.steps import loss_of

SHAPE = (4, 3)
DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]


def parameter(dtype=torch.float64):
    return nn.Parameter(draw(*SHAPE, dtype=dtype))


def summands(count=4, dtype=torch.float64):
    """Return tensors that nothing may be written to, and what they are."""
    values = [draw(*SHAPE, dtype=dtype, seed=seed) for seed in range(count)]
    return values, [value.clone() for value in values]


def popped(sums, *parameters):
    return sums.pop(parameters)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_the_sum_of_all_that_is_added(count, dtype):
    p, (values, before) = parameter(dtype), summands(count, dtype)
    sums = Gradients()
    for value in values:
        sums.add(p, value)
    (got,) = popped(sums, p)
    assert got.dtype == dtype
    assert torch.equal(got, sum(before[1:], before[0]))
    assert all(map(torch.equal, values, before))


def test_each_parameter_has_a_sum_of_its_own_and_none_without_gradients():
    p, q, r, s = (parameter() for _ in range(4))
    values, before = summands()
    sums = Gradients()
    for one, value in zip((p, q, p, q), values, strict=True):
        sums.add(one, value)
    sums.add(s, values[0])
    got = popped(sums, q, r, p, s)
    torch.testing.assert_close(got[0], before[1] + before[3])
    assert got[1] is None
    torch.testing.assert_close(got[2], before[0] + before[2])
    assert torch.equal(got[3], before[0])


@pytest.mark.parametrize("before", [1, 2, 3])
@pytest.mark.parametrize("after", [0, 1, 2, 3])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_a_factor_is_of_what_was_there_alone(before, after, dtype):
    p, (values, unchanged) = parameter(dtype), summands(before + after, dtype)
    sums, factor = Gradients(), torch.tensor(-2.5, dtype=dtype)
    for value in values[:before]:
        sums.add(p, value)
    sums.scale(factor)
    for value in values[before:]:
        sums.add(p, value)
    want = -2.5 * sum(unchanged[:before]) + sum(unchanged[before:])
    torch.testing.assert_close(popped(sums, p)[0], want)
    assert all(map(torch.equal, values, unchanged))
    assert float(factor) == -2.5


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("of", DTYPES)
@pytest.mark.parametrize("added", [True, False])
def test_factors_of_another_dtype(added, of, dtype):
    """The loss may be float32 where the parameters are not: the gradients keep their dtype."""
    p, (values, unchanged) = parameter(dtype), summands(2, dtype)
    sums = Gradients()
    sums.add(p, values[0])
    sums.scale(torch.tensor(0.3, dtype=of))
    if added:
        sums.add(p, values[1])
    (got,) = popped(sums, p)
    want = 0.3 * unchanged[0].double() + (unchanged[1].double() if added else 0)
    assert got.dtype == dtype
    eps = max(torch.finfo(dtype).eps, torch.finfo(of).eps)
    torch.testing.assert_close(got.double(), want, rtol=4 * eps, atol=4 * eps)
    assert all(map(torch.equal, values, unchanged))


def test_parameters_that_come_after_the_factor_are_not_scaled():
    p, q, (values, _) = parameter(), parameter(), summands(2)
    sums = Gradients()
    sums.add(p, values[0])
    sums.scale(torch.tensor(0.5))
    sums.add(q, values[1])
    got = popped(sums, p, q)
    torch.testing.assert_close(got, [0.5 * values[0], values[1]])


@pytest.mark.parametrize("factor", [0.0, float("inf"), float("nan")])
def test_factors_that_are_no_usual_numbers(factor):
    p, (values, _) = parameter(), summands(2)
    for added in (False, True):
        sums = Gradients()
        sums.add(p, values[0])
        sums.scale(torch.tensor(factor))
        if added:
            sums.add(p, values[1])
        want = factor * values[0] + (values[1] if added else 0)
        torch.testing.assert_close(popped(sums, p)[0], want, equal_nan=True)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_what_is_cleared_is_gone(count):
    p, (values, unchanged) = parameter(), summands()
    sums = Gradients()
    for value in values[:count]:
        sums.add(p, value)
    sums.clear()
    assert popped(sums, p) == [None]
    sums = Gradients()
    for value in values[:count]:
        sums.add(p, value)
    sums.clear()
    for value in values[count:]:
        sums.add(p, value)
    torch.testing.assert_close(popped(sums, p)[0], sum(unchanged[count:]))
    assert all(map(torch.equal, values, unchanged))


# Tensors of which several entries are one: what autograd hands out for y = x.sum(), and the like.
ALIASED = {
    "expanded": lambda: draw(1, 3).expand(*SHAPE),
    "a number": lambda: draw(1)[0].expand(*SHAPE),
    "transposed": lambda: draw(3, 4).t(),
    "a part": lambda: draw(4, 6)[:, ::2],
    "overlapping": lambda: draw(6).as_strided(SHAPE, (1, 1)),
}


@pytest.mark.parametrize("scaled", [None, 0, 1, 2])
@pytest.mark.parametrize("position", [0, 1, 2])
@pytest.mark.parametrize("name", ALIASED)
def test_tensors_in_unusual_layouts(name, position, scaled):
    p, (values, _) = parameter(), summands(3)
    values[position] = ALIASED[name]()
    unchanged, sums, want = [value.clone() for value in values], Gradients(), torch.zeros(SHAPE)
    want = want.double()
    for number, value in enumerate(values):
        sums.add(p, value)
        want = want + unchanged[number]
        if number == scaled:
            sums.scale(torch.tensor(3.0))
            want = 3 * want
    torch.testing.assert_close(popped(sums, p)[0], want)
    assert all(map(torch.equal, values, unchanged))


@pytest.mark.parametrize("scaled", [False, True])
def test_one_tensor_for_several_parameters(scaled):
    """As autograd hands it out for y = p + q; one that is a view of another as well."""
    p, q, r, (values, unchanged) = parameter(), parameter(), parameter(), summands()
    sums = Gradients()
    for one in (p, q, r):
        sums.add(one, values[0] if one is not r else values[0].view(SHAPE))
    if scaled:
        sums.scale(torch.tensor(2.0))
    sums.add(p, values[1])
    sums.add(p, values[2])
    sums.add(q, values[3])
    factor = 2 if scaled else 1
    got = popped(sums, p, q, r)
    torch.testing.assert_close(got[0], factor * unchanged[0] + unchanged[1] + unchanged[2])
    torch.testing.assert_close(got[1], factor * unchanged[0] + unchanged[3])
    torch.testing.assert_close(got[2], factor * unchanged[0])
    assert all(map(torch.equal, values, unchanged))


def test_one_tensor_added_to_itself():
    p, (values, unchanged) = parameter(), summands(1)
    sums = Gradients()
    for _ in range(4):
        sums.add(p, values[0])
    torch.testing.assert_close(popped(sums, p)[0], 4 * unchanged[0])
    assert torch.equal(values[0], unchanged[0])


def test_from_the_third_summand_on_nothing_is_allocated():
    p, (values, _) = parameter(), summands()
    sums = Gradients()
    sums.add(p, values[0])
    sums.add(p, values[1])
    where = sums._sums[p].data_ptr()
    assert where not in [value.data_ptr() for value in values]
    sums.add(p, values[2])
    sums.add(p, values[3])
    assert popped(sums, p)[0].data_ptr() == where
    sums.add(q := parameter(), values[0])
    assert popped(sums, q)[0] is values[0]  # a single one is handed on


@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.parametrize("count", [1, 2, 3])
def test_pop_lets_go(count, scaled):
    p, (values, _) = parameter(), summands(count)
    sums = Gradients()
    for value in values:
        sums.add(p, value)
    if scaled:
        sums.scale(torch.tensor(2.0))
    gc.disable()
    try:
        left = [weakref.ref(value) for value in values]
        got = popped(sums, p)
        left.append(weakref.ref(got[0]))
        del values, got
        value = None
        assert all(one() is None for one in left)
    finally:
        gc.enable()
    assert popped(sums, p) == [None]


class Added(nn.Module):
    """Two parameters whose gradients are one tensor, and one that has none from the penalty."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.other = (nn.Parameter(draw(5, 6, seed=seed)) for seed in (1, 2))
        self.bias = nn.Parameter(draw(5))

    def forward(self, x):
        return torch.nn.functional.linear(x, self.weight + self.other, self.bias)


@pytest.mark.parametrize("chunk", [None, 2])
def test_gradients_of_a_step_share_no_memory(chunk):
    """An optimizer changes them in place."""
    model, x, y = Added(), draw(6, 6), torch.arange(6) % 5
    logits, value = forward_with_penalty(model, x, y, penalty=Frobenius(2), chunk_size=chunk)
    loss_of(logits, value, y).backward()
    assert torch.equal(model.weight.grad, model.other.grad)
    kept = model.other.grad.clone()
    model.weight.grad.zero_()
    assert torch.equal(model.other.grad, kept)
    assert kept.any()
