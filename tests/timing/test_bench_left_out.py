"""jacfast.bench: who disagrees, fails, is too large or is interrupted has no time, and a reason."""

import re

import pytest
import torch
from torch import nn

import jacfast
from jacfast.timing import benchmark, cost, rivals
from tests import nets
from tests.timing.benching import EAGER, ONE_LINE, bench, interrupt_turn, row


def test_without_a_compiler_there_is_no_time_for_what_it_would_make():
    rows = [row for row in bench(nets.smooth_mlp()).rows if "inductor" in row.name]
    assert len(rows) == 2
    assert all(row.seconds is None for row in rows)
    assert {row.why for row in rows} == {
        "left out: there is no C++ compiler for Inductor (g++, or CXX)"
    }


def test_what_cannot_be_recorded_has_no_time_as_if_it_were():
    model = nets.smooth_mlp()
    model[1].register_forward_hook(lambda *_: None)
    result = bench(model)
    traced = [row for row in result.rows if "traced" in row.name]
    assert traced
    assert all("runs eager, and not compiled=, because of" in row.why for row in traced)
    assert all(row.seconds is None for row in traced)
    assert result.rows[4].seconds is not None  # eager


def test_a_wrong_gradient_is_caught(monkeypatch):
    def wrong(model, x, y, lam):
        rivals.one_vector(model, x, y, 1.01 * lam)

    good = row(bench(nets.smooth_mlp(), lam=1.0), "JacobianReg's form")
    monkeypatch.setattr(rivals, "jacobian_reg", wrong)
    result = bench(nets.smooth_mlp(), lam=1.0)
    bad = row(result, "JacobianReg's form")
    assert good.why is None
    assert bad.why.startswith("disagrees: its gradient is ")
    assert bad.seconds is None
    assert bad.plain_steps is None
    assert "JacobianReg's form: disagrees" in str(result)


def test_nan_disagrees(monkeypatch):
    def nan(model, x, y, lam):
        rivals.one_vector(model, x, y, float("nan"))

    monkeypatch.setattr(rivals, "jacobian_reg", nan)
    assert row(bench(nets.smooth_mlp()), "JacobianReg's form").why.startswith("disagrees")


@pytest.mark.parametrize(
    "error", [RuntimeError("no such\nkernel"), torch.OutOfMemoryError("CUDA out of memory")]
)
def test_who_fails_is_a_row_in_words(error, monkeypatch):
    def fails(*_):
        raise error

    monkeypatch.setattr(rivals, "one_vector", fails)
    why = row(bench(nets.smooth_mlp()), "one vector by autograd").why
    words = "does not run here: RuntimeError: no such"
    assert why == (words if "kernel" in str(error) else "left out: out of memory")


def test_the_loop_is_left_out_where_it_takes_too_long_or_too_much(monkeypatch):
    wide = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 400))
    monkeypatch.setattr(cost, "PATIENCE", (1e-3, 3.0))
    rows = [row for row in bench(wide).rows if row.passes == 400]
    assert [row.name for row in rows] == ["loop over the classes", "jacfast, eager"]
    assert all(re.match(r"left out: 400 backward passes, about \d+ s", row.why) for row in rows)
    monkeypatch.setattr(cost, "PATIENCE", (1e9, 3.0))
    monkeypatch.setattr(cost, "free_bytes", lambda device: 1000)
    rows = [row for row in bench(wide).rows if row.passes == 400]
    assert len(rows) == 2
    assert all(row.why.endswith("GB to keep or to check") for row in rows)


def test_a_model_that_plain_autograd_cannot_differentiate_twice():
    model = nn.Sequential(nn.Linear(6, 9), nn.Hardsigmoid(), nn.Linear(9, 5))
    rows = {row.name: row for row in bench(model, against=("one-vector", "one-line")).rows}
    assert "does not run here" in rows["one vector by autograd"].why
    assert "hardsigmoid" in rows["one vector by autograd"].why
    for name in ("jacfast, eager", "jacfast, traced", ONE_LINE):
        assert rows[name].why is None
        assert rows[name].error < 1e-5


def test_what_cannot_be_checked_is_not_timed():
    class Cosine(nn.Linear):  # of features that are zero: autograd's second derivative is NaN
        def forward(self, x):
            return super().forward(nn.functional.normalize(nn.functional.linear(x, self.weight)))

    with torch.no_grad():
        result = bench(Cosine(6, 6), x=torch.zeros(8, 6))
    assert result.rows[0].seconds > 0
    words = "cannot be checked, and is not timed: the gradient of plain autograd is not finite"
    assert {row.why for row in result.rows[4:6]} == {words}
    assert result.best is None


def test_an_interrupt_leaves_what_there_is(monkeypatch):
    interrupt_turn(monkeypatch, 4)
    result = benchmark.Result()
    with pytest.raises(KeyboardInterrupt):
        benchmark.fill(
            result, nets.mlp(), torch.rand(8, 6), None, jacfast.Frobenius(), against=EAGER
        )
    assert [row.spread is not None for row in result.rows[:5]] == [True] * 3 + [False] * 2
    assert all(row.seconds > 0 for row in result.rows[:5])


def test_an_interrupt_before_the_turns_leaves_single_steps(monkeypatch):
    """What takes minutes to compile is checked last."""

    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("torch._inductor.compile", interrupted)
    result = benchmark.Result()
    with pytest.raises(KeyboardInterrupt):
        benchmark.fill(
            result, nets.mlp(), torch.rand(8, 6), None, jacfast.Frobenius(), against=EAGER
        )
    eager = [row for row in result.rows if not row.compiles]
    assert len(eager) == 8
    assert all(row.seconds > 0 and row.plain_steps > 0 for row in eager)
    assert result.best is None  # single steps decide nothing
    assert "best for" not in str(result)
