"""jacfast.bench: its rows, its words, and that like is compared with like."""

import json
import typing

import pytest
import torch
from torch import nn

import jacfast
from jacfast.timing import benchmark, measure, rivals, turns
from jacfast.timing.contenders import RIVALS
from tests import nets
from tests.timing.benching import LOOP, ONE_LINE, bench, row


def test_rows_and_words():
    result = bench(nets.smooth_mlp())
    ours = ["jacfast, eager", "jacfast, traced", "jacfast, inductor"]
    groups = {
        "": ["plain step"],
        "R = Frobenius(n=1)": ["one vector by autograd", "JacobianReg's form", ONE_LINE, *ours],
        "R = Frobenius(n=1, subsample=0.25): a random part of each batch": ours,
        "R = Frobenius(n='exact'): all 5 rows": [LOOP, "jacfast, eager"],
    }
    want = [(group, name) for group, names in groups.items() for name in names]
    assert [(row.group, row.name) for row in result.rows] == want
    assert row(result, LOOP).passes == 5
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
