"""The best row, what is said of the others, and when two attacks agree: rows by hand."""

import math

import pytest
import torch

from jacfast.timing import attacks, reasons
from jacfast.timing.attacks import against, against_foolbox, agree
from jacfast.timing.result import Result, Row
from jacfast.timing.table import _milliseconds
from jacfast.timing.toolboxes import ART, ART_AT_ONCE, TORCHATTACKS, Peer, call
from tests import nets
from tests.timing.test_verify import task_of


def row(name, seconds, *, spread=0.05, main=True, passes=1, **more):
    group = "" if name == "plain step" else "R = Frobenius(n=1)"
    given = {"compiles": False, "plain_steps": seconds, "seconds": seconds} | more
    return Row(name, group, main, passes, spread=spread, **given)


def result(*rows):
    return Result(rows=[row("plain step", 1.0, main=False, passes=0), *rows])


def test_the_best_is_the_fastest_of_those_that_were_asked_for():
    found = result(
        row("slow", 6.0),
        row("fast", 3.0),
        row("another penalty", 2.0, main=False),
        row("a single step", 1.0, spread=None),
    )
    assert found.best.name == "fast"
    assert repr(found) == "Result(5 rows, best: fast)"
    assert "best for Frobenius(n=1): fast, 3.00 plain steps\n" in str(found)
    assert reasons.reasons(found) == ["  slow: 2.00 times as long"]


def test_what_is_said_of_the_others():
    found = result(
        row("best", 2.0, peak_bytes=1000),
        row("level", 2.08, peak_bytes=1190),
        row("loud", 3.0, spread=0.5, peak_bytes=1250),
        row("small", 3.0, peak_bytes=500),
        row("compiled", 3.0, peak_bytes=1000, made=7.25),
        row("loop", 9.0, main=False, passes=10),
        row("part", 1.0, main=False),
        row("out", None, spread=None, why="left out: out of memory"),
    )
    assert reasons.reasons(found) == [
        "  level: 1.04 times as long, level within the spread",
        "  loud: 1.50 times as long, level within the spread, 1.2 times the memory",
        "  small: 1.50 times as long, but 0.50 of the memory",
        "  compiled: 1.50 times as long, 7.2 s to make",
        "  loop, exact: 10 backward passes, 4.50 times as long",
    ]


def test_after_how_many_steps_compilation_is_repaid():
    """Against the next best of those that need none: 60 s at 0.5 s a step."""
    best = row("compiled", 2.0, compiles=True, made=60.0)
    others = [row("slow", 4.0), row("next", 2.5), row("traced", 2.1, compiles=True)]
    words = "; its 60.0 s to make are repaid after 120 steps (against next)"
    assert reasons.best_line(result(best, *others)).endswith(words)
    alone = result(best, row("traced", 2.1, compiles=True), row("once", 2.4, spread=None))
    assert reasons.best_line(alone).endswith("2.00 plain steps, after 60.0 s to make it")
    quick = row("compiled", 2.0, compiles=True, made=0.05)
    assert reasons.best_line(result(quick, *others)).endswith("compiled, 2.00 plain steps")


@pytest.mark.parametrize(
    ("plain", "others", "words"),
    [
        (0.01, (0.02, 0.3), "2% of its median (at most 30%)"),
        (0.01, (0.25, 0.3), "25% of its median (at most 30%); the machine is not quiet"),
        (0.21, (0.02, 0.03), "3% of its median (at most 21%); the machine is not quiet"),
    ],
)
def test_a_machine_that_is_not_quiet(plain, others, words):
    """By the spread in the middle, or that of the plain step, which all are divided by."""
    rows = [row("plain step", 1.0, spread=plain, passes=0)]
    found = reasons.noise(rows + [row("a step", 2.0, spread=spread) for spread in others])
    assert found.removesuffix(": measure again").endswith(words)
    assert not reasons.noise([row("single", 1.0, spread=None)])


@pytest.mark.parametrize(
    ("norm", "fooled", "agrees"),
    [
        *((1.0, 0.9, True), (1.009, 0.9, True), (0.991, 1.0, True)),
        *((1.011, 0.9, False), (0.98, 0.9, False), (1.0, 0.89, False)),
        *((math.nan, 0.9, False), (1.0, math.nan, False)),
    ],
)
def test_attacks_agree_within_a_hundredth_and_fool_no_less(norm, fooled, agrees):
    ours, theirs = {"mean_norm": norm, "fooled": fooled}, {"mean_norm": 1.0, "fooled": 0.9}
    if agrees:
        agree(ours, theirs)
    else:
        with pytest.raises(RuntimeError, match=r"the attacks must agree; jacfast: .*, peer: "):
            agree(ours, theirs)


def test_how_many_times_as_fast_as_the_peer(monkeypatch):
    """By a clock that shows 6 s for the peer's, and 2 s and 3 s for ours."""
    seconds = {"peer": 6.0, "same choices": 2.0, "no box": 3.0}

    def turns(runs, *_):
        for run in runs.values():
            run()
        return {name: {"median": seconds[name]} for name in runs}

    model, x = nets.build("mlp", 4)
    y = model(x).argmax(dim=1)
    monkeypatch.setattr(attacks, "take_turns", turns)
    same = attacks.deepfool(model, x, y).adversarial
    peer = Peer("peer", lambda *_: lambda *_: same, {"candidates": 10}, repeats=1)
    rows = against(model, x, y, peer)
    assert rows["same choices"]["ratio"] == 3
    assert rows["no box"]["ratio"] == 2
    assert rows["peer"]["mean_norm"] == pytest.approx(float((same - x).norm(dim=1).mean()))
    far = Peer("peer", lambda *_: lambda *_: x + 1.05 * (same - x), {"candidates": 10}, repeats=1)
    with pytest.raises(RuntimeError, match="the attacks must agree"):
        against(model, x, y, far)


def test_a_peer_leaves_the_labels_unless_it_leaves_the_predicted_class():
    model, x = nets.build("mlp", 4)
    predicted = model(x).argmax(dim=1)
    y, seen = (predicted + torch.tensor([1, 0, 0, 0])) % 5, []
    for leaves in (False, True):

        def make(*_, leaves=leaves):
            target = predicted if leaves else y
            moved = attacks.deepfool(model, x, target, candidates=10).adversarial
            return lambda _x, labels: seen.append(labels) or moved

        peer = Peer("peer", make, {"candidates": 10}, repeats=1, predicted=leaves)
        rows = against(model, x, y, peer)
        assert torch.equal(seen[-1], predicted if leaves else y)
        norm = rows["same choices"]["mean_norm"]
        assert norm == pytest.approx(rows["peer"]["mean_norm"])


@pytest.mark.parametrize("low_high", [(-0.1, 1.0), (0.0, 1.1)])
def test_images_outside_of_foolbox_s_box_are_left_out(low_high):
    pytest.importorskip("foolbox")
    x = torch.linspace(*low_high, 24).view(4, 6)
    why = against_foolbox(task_of(nets.mlp(), x=x), 0.1, 1.0)["why"]
    assert why == "x must lie in [0, 1], foolbox's box; got {:.3g} .. {:.3g}".format(*low_high)


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(2e-5, "0.0200"), (0.0012345, "1.23"), (0.12345, "123.5"), (2, "2,000.0")],
)
def test_milliseconds_have_three_digits_or_more(seconds, words):
    assert _milliseconds(seconds) == words


@pytest.mark.parametrize("at_once", [None, 1, 3])
def test_success_is_looked_at_as_the_peer_looks(monkeypatch, at_once):
    model, x = nets.build("mlp", 4)
    y, seen = model(x).argmax(dim=1), list[int]()

    def turns(runs, *_):
        for run in runs.values():
            run()
        seen.clear()
        return {name: {"median": 1.0} for name in runs}

    monkeypatch.setattr(attacks, "take_turns", turns)
    same = attacks.deepfool(model, x, y).adversarial
    model.register_forward_pre_hook(lambda _, inputs: seen.append(len(inputs[0])))
    against(model, x, y, Peer("peer", lambda *_: lambda *_: same, {"candidates": 10}, 1, at_once))
    assert seen == {None: [4], 1: [1, 1, 1, 1], 3: [3, 1]}[at_once]


@pytest.mark.parametrize(("peer", "package"), [(ART, "art"), (TORCHATTACKS, "torchattacks")])
def test_peers_look_at_as_many_images_as_is_said(peer, package):
    pytest.importorskip(package, reason="rivals are optional")
    model, x = nets.build("cnn", 3, torch.float32)
    x, seen = x.sigmoid(), list[int]()
    attack, y = peer.make(model, x, 5), model(x).argmax(dim=1)
    model[0].register_forward_pre_hook(lambda _, inputs: seen.append(len(inputs[0])))
    call(attack, x, y)
    assert max(seen) == min(peer.at_once, len(x))


def test_of_art_it_is_what_users_choose():
    assert ART.at_once == ART_AT_ONCE > 1
