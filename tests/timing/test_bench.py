"""jacfast.bench: who disagrees has no time, like is compared with like, the model stays."""

import json
import re
import typing

import pytest
import torch
from torch import nn

import jacfast
from jacfast.timing import benchmark, cost, measure, rivals, turns
from jacfast.timing.contenders import RIVALS
from tests import nets
from tests.timing.benching import EAGER, bench, interrupt_turn

ONE_LINE, LOOP = "penalty(logits, x) in the loss", "loop over the classes"


def by_name(result):
    return {f"{row.group[:17]}: {row.name}": row for row in result.rows}


def test_rows_and_words():
    result = bench(nets.smooth_mlp())
    rows = by_name(result)
    main, part, exact = "R = Frobenius(n=1", "R = Frobenius(n=1", "R = Frobenius(n='"
    assert [row.name for row in result.rows[:7]] == [
        *("plain step", "one vector by autograd", "JacobianReg's form"),
        *("penalty(logits, x) in the loss", "jacfast, eager", "jacfast, traced"),
        "jacfast, inductor",
    ]
    assert len({row.group for row in result.rows}) == 4
    assert part == main
    assert rows[f"{exact}: loop over the classes"].passes == 5
    timed = [row for row in result.rows if "inductor" not in row.name]
    assert all(row.seconds > 0 and row.why is None for row in timed)
    assert all(row.plain_steps == row.seconds / result.rows[0].seconds for row in timed)
    assert all(row.error < 1e-5 for row in timed[1:])
    assert all(row.peak_bytes > 0 for row in timed)
    text = str(result)
    assert all(len(line) <= 100 for line in text.splitlines())
    assert result.best.main
    assert f"best for Frobenius(n=1): {result.best.name}, " in text
    assert "checked: gradients of CE + 0.1 R against plain autograd in float64" in text
    assert "loop over the classes, exact: 5 backward passes, " in text


def test_a_turn_is_of_several_steps_and_the_seconds_are_of_one(monkeypatch):
    """By a clock that shows 0.02 s for a first step, three fill the 0.05 s of a turn."""
    done, turned, step = [], [], rivals.one_vector

    def first(run):
        run()
        return 0.02

    def turn(run):
        before = len(done)
        run()
        turned.append(len(done) - before)
        return 0.06

    monkeypatch.setattr(rivals, "one_vector", lambda *given: done.append(1) or step(*given))
    monkeypatch.setattr(measure, "TURN", 0.05)
    monkeypatch.setattr(measure, "seconds_of", first)
    monkeypatch.setattr(turns, "seconds_of", turn)
    rows = bench(nets.mlp(), against={"one-vector"}).rows
    assert set(turned) == {0, 3}  # of the others, and of this one
    timed = [row.seconds for row in rows if row.why is None]
    assert len(timed) >= 4
    assert timed == pytest.approx([0.02] * len(timed))


def test_what_a_first_call_takes_longer_is_its_making(monkeypatch):
    """By a clock that shows 5, 3 and 2 s for the first calls of each; of the plain step 3 and 2."""
    clock = iter([3.0, 2.0, *[5.0, 3.0, 2.0] * 9])

    def seconds(run):
        run()
        return next(clock)

    monkeypatch.setattr(measure, "seconds_of", seconds)
    rows = bench(nets.mlp(), against=(), subsample=None).rows
    assert {row.made for row in rows if row.compiles and row.why is None} == {3.0}
    assert {row.made for row in rows if not row.compiles} == {None}


def test_passes_are_those_of_the_penalty():
    rows = bench(nets.mlp(), jacfast.Frobenius(3), subsample=None).rows
    assert [row.passes for row in rows if row.main] == [3] * 4
    assert [row.passes for row in rows if not row.main] == [0, 5, 5]


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

    good = by_name(bench(nets.smooth_mlp(), lam=1.0))
    monkeypatch.setattr(rivals, "jacobian_reg", wrong)
    result = bench(nets.smooth_mlp(), lam=1.0)
    name = "R = Frobenius(n=1: JacobianReg's form"
    row = by_name(result)[name]
    assert good[name].why is None
    assert row.why.startswith("disagrees: its gradient is ")
    assert row.seconds is None
    assert row.plain_steps is None
    assert "JacobianReg's form: disagrees" in str(result)


def test_nan_disagrees(monkeypatch):
    def nan(model, x, y, lam):
        rivals.one_vector(model, x, y, float("nan"))

    monkeypatch.setattr(rivals, "jacobian_reg", nan)
    rows = by_name(bench(nets.smooth_mlp()))
    assert rows["R = Frobenius(n=1: JacobianReg's form"].why.startswith("disagrees")


@pytest.mark.parametrize(
    "error", [RuntimeError("no such\nkernel"), torch.OutOfMemoryError("CUDA out of memory")]
)
def test_who_fails_is_a_row_in_words(error, monkeypatch):
    def fails(*_):
        raise error

    monkeypatch.setattr(rivals, "one_vector", fails)
    why = by_name(bench(nets.smooth_mlp()))["R = Frobenius(n=1: one vector by autograd"].why
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


@pytest.mark.parametrize(
    ("penalty", "main", "groups"),
    [
        (jacfast.Frobenius(3), [ONE_LINE], 4),
        (
            jacfast.Frobenius("exact"),
            [LOOP, ONE_LINE],
            3,
        ),
        (jacfast.CrossLipschitz(), [ONE_LINE], 3),
        (jacfast.InputGradient(), [ONE_LINE], 3),
        (jacfast.Frobenius(weights=torch.ones(5)), [ONE_LINE], 3),
        (jacfast.Frobenius(root=True), [ONE_LINE], 2),
    ],
    ids=str,
)
def test_like_is_compared_with_like(penalty, main, groups):
    result = bench(nets.smooth_mlp(), penalty)
    ours = ["jacfast, eager", "jacfast, traced", "jacfast, inductor"]
    assert [row.name for row in result.rows if row.main] == main + ours
    assert len({row.group for row in result.rows}) == groups
    assert all(row.why is None for row in result.rows if "inductor" not in row.name)
    assert "left out, they compute another penalty: one vector by autograd" in result.notes[0]


def test_literal_and_table_of_rivals_are_the_same():
    assert typing.get_args(benchmark.Rival) == benchmark.ALL
    assert set(RIVALS) == {*benchmark.ALL}


def test_other_kinds_of_models():
    class Dictionary(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Sequential(
                nn.utils.parametrizations.spectral_norm(nn.Linear(6, 9)),
                nn.BatchNorm1d(9), nn.ReLU(), nn.Dropout(0.2), nn.Linear(9, 5),
            )  # fmt: skip

        def forward(self, x, scale, shift=0.0):
            x.sub_(0.5)
            logits = self.net(x) * scale[:, None] + shift
            return {"logits": logits, "features": logits.new_zeros(len(x), 3)}

    model = Dictionary()
    model.net[4].bias.requires_grad_(False)
    x = torch.rand(8, 6)
    before = x.clone()
    result = bench(model, x=x, args=(torch.rand(8),), kwargs={"shift": torch.ones(5)})
    assert torch.equal(x, before)
    assert result.about["mode"] == "training"
    assert "without dropout" in result.check
    words = " ".join(result.notes)
    assert "subsample=0.25 is left out: batch-norm couples the samples" in words
    assert "batch_norm='coupled'" in words
    rows = [row for row in result.rows if "inductor" not in row.name and "traced" not in row.name]
    assert [row.why for row in rows] == [None] * len(rows)
    assert all(row.error < 1e-4 for row in rows[1:])


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


def test_who_asks_for_what_cannot_be_is_told_so():
    x = torch.rand(4, 6)
    for options, kind, rule in (
        ({"model": len}, TypeError, "model must be a torch.nn.Module; got builtin"),
        ({"model": nn.Flatten()}, ValueError, "model must have parameters that require grad"),
        ({"x": torch.zeros(4, 6).long()}, TypeError, "x must be floating point"),
        ({"x": torch.rand(4, 7)}, ValueError, r"model must accept x of shape \[4, 7\]"),
        (
            {"y": torch.tensor([5, 0, 0, 0])},
            ValueError,
            r"y must lie in 0 .. K - 1 = 4; got",
        ),
        ({"penalty": "Frobenius"}, TypeError, "penalty must be a jacfast Penalty, .*; got str"),
        ({"penalty": jacfast.Frobenius(6)}, ValueError, r"n must be in 1 .. K = 5"),
        ({"penalty": jacfast.Frobenius(every=2)}, ValueError, "penalty must have every=1"),
        ({"penalty": jacfast.Frobenius(subsample=0.5)}, ValueError, "must have subsample=1.0"),
        ({"penalty": jacfast.Frobenius(reduction="none")}, ValueError, "must have reduction='mean"),
        ({"lam": 0}, ValueError, "lam must be finite and > 0; got 0"),
        ({"against": ("loops",)}, ValueError, "against must hold some of one-vector, .*loops"),
        ({"against": "loop"}, ValueError, "against must hold some of"),
        ({"seconds": -1.0}, ValueError, "seconds must be finite and >= 0"),
        ({"subsample": 1.0}, ValueError, r"subsample must be in \(0, 1\), or None; got 1.0"),
    ):
        given = {"model": nets.mlp(), "x": x} | options
        with pytest.raises(kind, match=rule):
            jacfast.bench(given.pop("model"), given.pop("x"), **given)


class Changed(nn.Linear):
    """Its backward pass needs what an operation in place has overwritten."""

    def forward(self, x):
        y = super().forward(x).sigmoid()
        y.mul_(2)
        return y


class Cut(nn.Linear):
    """No graph leads from its outputs to what is named."""

    def __init__(self, what: str) -> None:
        super().__init__(6, 5)
        self.what = what

    def forward(self, x):
        if self.what == "x":
            return super().forward(x.detach())
        with torch.no_grad():
            return super().forward(x)


class Exits(nn.Linear):
    """It can be called, and ends the process when it is trained."""

    def forward(self, x):
        if torch.is_grad_enabled():
            raise SystemExit(3)
        return super().forward(x)


@pytest.mark.parametrize(
    ("model", "rule"),
    [
        (Cut("x"), "the model's outputs do not depend on x: no graph leads from one to the other"),
        (Cut("all"), "the model's outputs do not depend on x: no graph leads from one to the othe"),
        (
            Changed(6, 5),
            "model must be one that can be trained; a plain step raised RuntimeError: one of the "
            "variables needed for gradient computation has been modified by an inplace operation",
        ),
        (
            Exits(6, 5),
            "model must be one that can be trained; a plain step raised SystemExit: 3",
        ),
    ],
)
def test_a_model_that_cannot_be_trained_is_refused_in_words(model, rule):
    given = model.weight.grad = torch.ones(5, 6)
    with pytest.raises(ValueError, match=rule):
        bench(model)
    assert model.weight.grad is given
    assert bool((given == 1).all())


@pytest.mark.parametrize("graph", [False, True])
def test_lack_of_memory_is_not_laid_upon_the_model(graph):
    class Large(nn.Linear):
        def forward(self, x):
            if torch.is_grad_enabled() or not graph:
                raise MemoryError
            return super().forward(x)

    with pytest.raises(MemoryError):
        bench(Large(6, 5))


def test_an_optimiser_in_a_hook_is_refused():
    model = nets.mlp()
    model[0].weight.register_post_accumulate_grad_hook(lambda p: p.data.zero_())
    with pytest.raises(ValueError, match="model must have no hooks that run once a gradient"):
        bench(model)
    assert model[0].weight.any()


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


def test_a_compiled_model_is_called_as_it_is():
    model = torch.compile(nets.smooth_mlp(), backend="eager")
    result = bench(model, against=("one-vector",))
    assert result.notes == [
        "the model is given to torch.compile: rivals call it as it is, compiled"
    ]
    rows = {row.name: row for row in result.rows if row.main}
    assert rows["one vector by autograd"].error < 1e-5
    assert rows["jacfast, traced"].error < 1e-5
    assert "no C++ compiler" in rows["jacfast, auto, the model being compiled"].why


def test_json():
    found = json.loads(bench(nets.mlp(), against=("one-vector",)).to_json())
    assert found["environment"]["torch"] == torch.__version__
    assert found["environment"]["threads"] == str(torch.get_num_threads())
    assert found["about"]["x"] == [8, 6]
    assert found["best"] in [row["name"] for row in found["rows"]]
    assert found["rows"][0]["plain_steps"] == 1.0
    assert found["rounds"] == 2


def test_deepfool_against_foolbox():
    pytest.importorskip("foolbox")
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Dropout(), nn.Linear(16, 5))
    result = bench(model, against=("foolbox",))
    rows = result.deepfool["rows"]
    norms = {name: row["mean_norm"] for name, row in rows.items()}
    assert set(rows) == {"foolbox", "same choices", "no box"}
    assert norms["same choices"] == pytest.approx(norms["foolbox"], rel=0.01)
    assert rows["foolbox"]["fooled"] == 1
    assert "DeepFool, " in str(result)
    out = bench(model, x=10 * torch.rand(8, 6) - 5, against=("foolbox",))
    assert out.deepfool["why"].startswith("x must lie in [0, 1], foolbox's box; got -")
    assert "DeepFool against foolbox's: left out, x must lie" in str(out)
