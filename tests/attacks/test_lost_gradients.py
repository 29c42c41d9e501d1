"""Samples whose gradient is NaN or infinite look robust: attacks say how many these are."""

import warnings
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import nn

import jacfast
from jacfast.attacks.gradient import finite_rows
from jacfast.attacks.whole import attack_to_file
from jacfast.evaluation import accuracy_curve
from tests.nets import build

LOST = torch.tensor([False, True, False, False, True, False])
SAID = "the gradient in x was NaN or infinite for {} of {} attacked samples: attacks that follow"
ATTACKS = {
    "fgsm": {"eps": 0.2},
    "bim": {"eps": 0.2},
    "pgd": {"eps": 0.01, "restarts": 3},
    "carlini_wagner": {"steps": 5, "binary_steps": 2},
    "ddn": {"steps": 3},
    "fmn": {"steps": 3},
    "jsma": {"steps": 2},
    "minimal_norm": {"budget": 12},
}


class Lost(nn.Module):
    """A network with the logits of another one, whose gradient is `lost` for some samples."""

    def __init__(self, inner: nn.Module, by: float = 0.0) -> None:
        super().__init__()
        self.inner, self.by = inner, by

    def forward(self, x, lost):
        first = x.flatten(1)[:, :1]
        inside = torch.where(lost[:, None], first * self.by, 1.0)
        return self.inner(x) + inside.sqrt() - torch.where(lost[:, None], 0.0, 1.0)


def network(samples: int = 6):
    model, x = build("cnn", samples=samples)
    return model, x.sigmoid()


def said(work) -> list[str]:
    """Return what `work` warns of."""
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        work()
    return [str(each.message) for each in seen]


@pytest.mark.parametrize("name", ATTACKS)
def test_an_attack_says_of_how_many(name):
    model, x = network()
    y, attack = model(x).argmax(1), getattr(jacfast, name)
    kwargs = {"args": (LOST,), **ATTACKS[name]}
    for call in (attack, attack.result):
        (text,) = said(lambda call=call: call(Lost(model), x, y, **kwargs))
        assert text.startswith(SAID.format(2, 6))
        assert "unknown, not large" in text
    assert said(lambda: attack(Lost(model), x, y, **{**kwargs, "args": (LOST & False,)})) == []


def test_targeted_the_shortest_says_so_too():
    model, x = network()
    target = (model(x).argmax(1) + 1) % 3
    attack = jacfast.minimal_norm
    (text,) = said(lambda: attack(Lost(model), x, target=target, budget=12, args=(LOST,)))
    assert text.startswith(SAID.format(2, 6))


@pytest.mark.parametrize(
    "options", [{}, {"variant": "super"}, {"batch_size": 4}, {"p": float("inf")}]
)
def test_deepfool_says_so_too(options):
    """Of those that stall: a gradient that is lost, and not one of 0 or a logit that is none."""
    model, x = network()
    (text,) = said(lambda: jacfast.deepfool(Lost(model), x, args=(LOST,), **options))
    assert text.startswith(SAID.format(2, 6))
    flat = nn.Sequential(nn.Flatten(), nn.Linear(x[0].numel(), 3)).to(x)
    nn.init.zeros_(flat[1].weight)
    assert said(lambda: jacfast.deepfool(flat, x, **options)) == []
    assert jacfast.deepfool(flat, x, **options).stalled.all()


def test_who_is_misclassified_is_not_searched():
    """Its rows at x are computed with those of the others, and have no use."""
    model, x = network()
    y = model(x).argmax(1)
    y[1] = (y[1] + 1) % 3
    (text,) = said(lambda: jacfast.minimal_norm(Lost(model), x, y, budget=12, args=(LOST,)))
    assert text.startswith(SAID.format(1, 6))


def test_a_curve_and_a_report_say_it_once():
    model, x = network()
    y = model(x).argmax(1)
    how = {"batch_size": 4, "args": (LOST,)}
    (text,) = said(lambda: accuracy_curve(Lost(model), x, y, jacfast.fgsm, (0, 0.1, 0.2), **how))
    assert text.startswith(SAID.format(4, 12))  # two of six, at each of two sizes
    how |= {"eps": (0.1,), "budget": 12}
    texts = said(lambda: jacfast.robustness_report(Lost(model), x, y, **how))
    assert sum("attacked samples" in text for text in texts) == 1


def test_one_row_of_several_is_enough_and_one_look_of_several():
    """The slope of a root is infinite at 0: of two rows there both count as none."""
    x = torch.tensor([[0.0, 1.0], [1.0, 2.0], [0.0, 3.0]]).requires_grad_()
    logits, lost = torch.stack([x[:, 1], x[:, 0].sqrt()], dim=1), torch.zeros(2).long()
    here = torch.tensor([0, 0, 1])  # who has two points, one of them with a gradient
    each = torch.eye(2)[:, None].expand(2, 3, 2)
    rows = finite_rows(logits, x, each, lost, here)
    assert rows.tolist() == [[[0, 0], [0, 1], [0, 0]], [[0, 0], [0.5, 0], [0, 0]]]
    assert lost.tolist() == [1, 1]


def test_where_logits_are_none_the_gradient_is_not_to_blame():
    x = torch.tensor([[0.5, -1.0], [0.5, 1.0]])

    def model(x):
        return torch.stack([x[:, 1].sqrt(), x[:, 0]], dim=1)  # of the first NaN, with its slope

    assert not [text for text in said(lambda: jacfast.deepfool(model, x)) if "gradient" in text]


def test_batches_of_a_file_say_it_once(tmp_path):
    """Of images whose first entry is 0 the gradient is infinite."""
    model, x = network()
    x[LOST, 0, 0, 0] = 0

    class Marked(nn.Module):
        def forward(self, x):
            return model(x) + 1e-9 * x.flatten(1)[:, :1].sqrt()

    y = model(x).argmax(1)
    (text,) = said(
        lambda: attack_to_file(tmp_path / "a" / "b.safetensors", "fgsm", Marked(), x, y, 2, eps=0.1)
    )
    assert text.startswith(SAID.format(2, 6))


def test_each_thread_says_its_own():
    """A call in another thread is none of the batches of a curve."""
    model, x = network()
    y = model(x).argmax(1)

    def attack(model, x, y, eps):
        with ThreadPoolExecutor(1) as pool:
            return pool.submit(jacfast.fgsm, model, x, y, eps=eps).result()

    texts = said(lambda: accuracy_curve(Lost(model), x, y, attack, (0.1,), args=(LOST,)))
    assert len(texts) == 1
    assert texts[0].startswith(SAID.format(2, 6))


def test_nobody_is_told_after_an_error():
    """What is gathered goes with the call that fails; the next one has its own."""
    model, x = network()
    y = model(x).argmax(1)

    def attack(model, x, y, eps):
        jacfast.fgsm(model, x, y, eps=eps)
        raise RuntimeError("of the user")

    def work():
        with pytest.raises(RuntimeError, match="of the user"):
            accuracy_curve(Lost(model), x, y, attack, (0.1,), args=(LOST,))

    assert said(work) == []
    texts = said(lambda: jacfast.fgsm(Lost(model), x, y, eps=0.1, args=(LOST,)))
    assert len(texts) == 1
