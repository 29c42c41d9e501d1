"""jsma: the pixel, or the pair, of greatest saliency, against brute force."""

import itertools
import re

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from jacfast import jsma
from jacfast.attacks import saliency
from tests.nets import build, draw, parameters, rows_of


def best(scores: dict) -> tuple | None:
    """Return the key of the largest score > 0, the first of equals."""
    top = max(scores.values(), default=0)
    return next((key for key, score in scores.items() if score == top), None) if top > 0 else None


def pair_by_brute_force(a, b, allowed) -> tuple | None:
    scores = {}
    for i, j in itertools.combinations(range(len(a)), 2):
        more, less = float(a[i] + a[j]), float(b[i] + b[j])
        if allowed[i] and allowed[j] and more > 0 and less < 0:
            scores[i, j] = -more * less
    return best(scores)


def problems(kind: str):
    """Return a, b [20, 13] in float64 and the allowed pixels."""
    a, b = draw(20, 13, seed=1), draw(20, 13, seed=2)
    allowed = draw(20, 13, seed=3) > -1
    if kind == "ties":
        a, b = a.round(), b.round()
    if kind == "two":  # the best pair is often one pixel and the one behind it in both
        a, b = a + 3, b - 3
    if kind == "opposed":  # what helps the one hurts the other: nothing is surpassed
        b = a - 0.7
    if kind == "aligned":
        b = -a
    if kind == "few":
        allowed = draw(20, 13, seed=3) > 1.2
    return a, b, allowed


@pytest.mark.parametrize("block", [1, 40, 2**20])
@pytest.mark.parametrize("kind", ["plain", "ties", "two", "opposed", "aligned", "few"])
def test_best_pair_is_that_of_all_pairs(kind, block, monkeypatch):
    monkeypatch.setattr(saliency, "BLOCK", block)
    a, b, allowed = problems(kind)
    pairs, there = saliency.best_pair(a, b, allowed)
    wanted = [pair_by_brute_force(*row) for row in zip(a, b, allowed, strict=True)]
    got = [tuple(p) if t else None for p, t in zip(pairs.tolist(), there.tolist(), strict=True)]
    assert got == wanted
    for row, want in zip(zip(a, b, allowed, strict=True), wanted, strict=True):
        pair, one = saliency.best_pair(*(t[None] for t in row))  # alone, fewer are compared
        assert (tuple(pair[0].tolist()) if one else None) == want
    assert sum(pair is not None for pair in wanted) >= (10 if kind != "few" else 1)


def test_pairs_of_one_pixel_do_not_exist():
    one = torch.ones(1, 1, dtype=torch.float64)
    assert not bool(saliency.best_pair(one, -one, one > 0)[1])


class Largest(TorchDispatchMode):
    """Note the number of entries of the largest tensor that an operator returns."""

    entries = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, tuple | list) else [result]:
            if isinstance(tensor, torch.Tensor):
                self.entries = max(self.entries, tensor.numel())
        return result


def test_no_matrix_of_all_pairs():
    a = draw(2, 1500)
    with Largest() as largest:
        saliency.best_pair(a, a - 0.7, torch.ones_like(a) > 0)  # nothing is surpassed
    assert largest.entries <= saliency.BLOCK < 1500**2
    a, b = draw(1, 150_528), draw(1, 150_528, seed=5)
    with Largest() as largest:
        saliency.best_pair(a, b, torch.ones_like(a) > 0)
    assert largest.entries == 150_528


def linear(seed: int = 0) -> nn.Linear:
    model = nn.Linear(8, 4).double()
    model.weight.data, model.bias.data = draw(4, 8, seed=seed), draw(4, seed=9)
    return model


def rows(model, sample, label, outputs):
    """Return a and b of one sample by torch.func."""
    whole = nn.Sequential(model, nn.Softmax(1)) if outputs == "probabilities" else model
    j = rows_of(whole, parameters(whole), sample)
    return j[label], j.sum(0) - j[label]


@pytest.mark.parametrize("outputs", ["logits", "probabilities"])
@pytest.mark.parametrize("targeted", [True, False])
@pytest.mark.parametrize("name", ["smooth_mlp", "cnn"])
def test_one_pixel_after_the_other_against_brute_force(name, targeted, outputs):
    model, x = build(name, samples=5)
    x = x.sigmoid()
    labels = torch.arange(5) if targeted else model(x).argmax(1)
    want = x.clone().flatten(1)
    for _ in range(6):
        for i, label in enumerate(labels.tolist()):
            a, b = rows(model, want[i].view(x.shape[1:]), label, outputs)
            a, b = (a, b) if targeted else (-a, -b)
            scores = {d: float(-a[d] * b[d]) for d in range(len(a)) if a[d] > 0 and b[d] < 0}
            d = best({d: score for d, score in scores.items() if want[i, d] < 1})
            if d is not None:
                want[i, d] = (want[i, d] + 0.25).clamp(max=1)
    given = {"target": labels} if targeted else {"y": labels}
    got = jsma(model, x, **given, eps=0.25, steps=6, outputs=outputs, stop=False)
    torch.testing.assert_close(got, want.view_as(x))
    if not targeted:
        assert torch.equal(got, jsma(model, x, eps=0.25, steps=6, outputs=outputs, stop=False))
    assert int((got != x).sum()) >= 3


@pytest.mark.parametrize("outputs", ["logits", "probabilities"])
def test_pairs_against_brute_force(outputs):
    model, x = build("cnn", samples=3)
    x = x.sigmoid()
    target = torch.tensor([1, 2, 3])
    want, free = x.clone().flatten(1), torch.ones(3, 128, dtype=torch.bool)
    for _ in range(4):
        for i, label in enumerate(target.tolist()):
            a, b = rows(model, want[i].view(x.shape[1:]), label, outputs)
            pair = pair_by_brute_force(a, b, free[i] & (want[i] < 1))
            for d in pair or ():
                want[i, d], free[i, d] = (want[i, d] + 0.1).clamp(max=1), False
    got = jsma(model, x, target=target, eps=0.1, steps=4, pixels=2, outputs=outputs, stop=False)
    torch.testing.assert_close(got, want.view_as(x))
    assert bool(((got != x).flatten(1).sum(1) == 8).all())  # each once


@pytest.mark.parametrize("stop", [False, True])
def test_nothing_qualifies_nothing_changes(stop):
    """Every pixel raises the target, and the others as much: pixel 0 is left alone, too."""
    model = nn.Linear(3, 2).double()
    model.weight.data = torch.tensor([[1.0, 2.0, 3.0], [1.0, 2.0, 3.0]]).double()
    x, target = torch.zeros(2, 3).double(), torch.tensor([0, 1])
    for pixels in (1, 2):
        assert torch.equal(jsma(model, x, target=target, steps=3, pixels=pixels, stop=stop), x)


def test_a_pixel_at_the_face_of_the_box_is_passed_over():
    model = nn.Linear(3, 2).double()
    model.weight.data = torch.tensor([[0.0, 0.0, 0.0], [3.0, 2.0, 1.0]]).double()
    model.weight.data[0] = -model.weight.data[1]
    x, target = torch.tensor([[1.0, 0.25, 0.25]]).double(), torch.tensor([1])
    got = jsma(model, x, target=target, eps=0.5, steps=3, stop=False)
    assert torch.equal(got, torch.tensor([[1.0, 1.0, 0.75]]).double())
    got = jsma(model, x, target=target, eps=0.5, steps=3, stop=False, clip=None)
    assert torch.equal(got, torch.tensor([[2.5, 0.25, 0.25]]).double())
    got = jsma(model, x, target=target, eps=0.5, steps=3, stop=False, pixels=2)
    assert torch.equal(got, torch.tensor([[1.0, 0.75, 0.75]]).double())


def test_sure_networks_still_have_a_saliency():
    """In float32 the softmax is exactly one-hot here, and its Jacobian 0."""
    model = nn.Linear(3, 2)
    model.weight.data = torch.tensor([[0.0, 0.0, 0.0], [1.0, 3.0, 2.0]])
    model.bias.data = torch.tensor([200.0, 0.0])
    x, target = torch.zeros(1, 3), torch.tensor([1])
    got = jsma(model, x, target=target, steps=1, outputs="probabilities")
    assert torch.equal(got, torch.tensor([[0.0, 1.0, 0.0]]))


@pytest.mark.parametrize("pixels", [1, 2])
def test_the_scale_of_the_logits_plays_no_part(pixels):
    """Products of two slopes of 1e-25 are beyond what float32 holds."""
    model, x, target = linear().float(), draw(6, 8).sigmoid().float(), torch.arange(6) % 4
    choices = {"target": target, "steps": 3, "eps": 0.25, "pixels": pixels, "stop": False}
    want = jsma(model, x, **choices)
    assert bool((want != x).any())
    assert torch.equal(jsma(lambda a: 2.0**-83 * model(a), x, **choices), want)


def test_stop():
    model, x = linear(), draw(20, 8, seed=4).sigmoid() / 2
    before, second = model(x).topk(2, dim=1).indices.T
    for labels in ({"target": second}, {"y": before}):
        given = {**labels, "eps": 0.2, "outputs": "probabilities"}
        done = jsma(model, x, **given, steps=40)
        on = jsma(model, x, **given, steps=40, stop=False)
        after = model(done).argmax(1)
        fooled = after == labels["target"] if "target" in labels else after != before
        assert 5 <= int(fooled.sum()) <= 20
        assert int((done != x).sum()) < int((on != x).sum())
        short = jsma(model, x, **given, steps=39)
        torch.testing.assert_close(short[fooled], done[fooled])
    assert torch.equal(jsma(model, x, target=before, steps=5), x)  # there already


@pytest.mark.parametrize(
    ("kind", "text", "arguments"),
    [
        (ValueError, "eps must be finite and > 0; got 0", {"eps": 0}),
        (ValueError, "steps must be >= 1; got 0", {"steps": 0}),
        (ValueError, "pixels must be one of 1, 2; got 3", {"pixels": 3}),
        (ValueError, "outputs must be one of logits, probabilities; got 'p'", {"outputs": "p"}),
        (ValueError, "give y, the classes to leave, or target", {"y": torch.zeros(2).long()}),
        (ValueError, "pixels=2 needs target", {"pixels": 2, "target": None}),
        (ValueError, "target must lie in 0 .. K - 1 = 3; got 4", {"target": torch.tensor([4, 4])}),
        (ValueError, "target must have shape [N]", {"target": torch.tensor([1])}),
        (ValueError, "at least 2 logits", {"model": lambda x: x[:, :1]}),
    ],
)
def test_bad_input_is_refused(kind, text, arguments):
    x, target = draw(2, 8).sigmoid(), torch.tensor([1, 2])
    with pytest.raises(kind, match=re.escape(text)):
        jsma(**{"model": linear(), "x": x, "target": target, "steps": 3, **arguments})
