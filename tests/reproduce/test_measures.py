"""Accuracies under the attacks of columns and curves, and a phase's loss, against plain calls."""

import dataclasses

import pytest
import torch

from jacfast import bim, models, pgd
from jacfast.evaluation import accuracy
from jacfast.reproduce import parts
from jacfast.reproduce.config import Curve, Row, Table, Training
from jacfast.reproduce.measures import Subject, find


@pytest.fixture
def subject():
    """A network and images of which 100 are attacked, in steps of 0.005."""
    torch.manual_seed(0)
    model = models.mlp(36, 20, 4).eval()
    for weight in model.parameters():
        weight.data *= 3
    x = torch.rand(200, 1, 6, 6)
    about = {"title": "", "source": "", "data": "", "model": "", "columns": [], "rank": ""}
    table = Table(key="t", samples=100, rows=[], step_size=0.005, **about)
    row = Row("a", [], None, fresh=False)
    return Subject(model, x, model(x).argmax(dim=1), table, row, lambda: None)


def test_iterated_attacks_have_the_loss_of_their_column_and_the_step_of_the_table(subject):
    model, x, y = subject.model, subject.x[:100], subject.y[:100]

    def left(**options):
        return 100 * accuracy(model, bim(model, x, y, eps=0.1, **options), y)

    found = [find(column)(subject) for column in ("bim 0.1", "margin 0.1")]
    want = [left(step_size=0.005, loss=loss) for loss in ("cross-entropy", "margin")]
    assert found == want
    assert len({*want, left(), left(loss="margin")}) == 4  # each would be another figure


def test_a_curve_is_by_the_attack_of_its_options_on_its_images(subject):
    options = {"steps": 1, "step_size": 0.02, "random_start": False}
    found = subject.curve(Curve("pgd", [0.0, 0.1], 150, options))
    x, y = subject.x[:150], subject.y[:150]
    moved = pgd(subject.model, x, y, eps=0.1, **options)
    assert found == [1.0, accuracy(subject.model, moved, y)]
    assert found[1] != accuracy(subject.model, pgd(subject.model, x, y, eps=0.1), y)


def test_the_loss_of_a_phase_has_what_its_row_says():
    given = {"lam": 0.2, "share": 0.5, "twins": True, "penalise": "both", "smoothing": 0.1}
    given |= {"layer": "3"}
    fgsm, frobenius = {"name": "fgsm", "eps": 0.1}, {"name": "Frobenius", "n": 2}
    training = Training(attack=fgsm, penalty=frobenius, **given)
    loss = parts.loss(training)
    assert {name: getattr(loss, name) for name in given} == given
    assert loss.penalty.n == 2
    assert loss.attack.keywords == {"eps": 0.1}
    once = parts.loss(dataclasses.replace(training, once=True, twins=False, penalise="clean"))
    assert (once.attack, once.share, once.lam, once.layer) == (None, 1.0, 0.2, "3")
