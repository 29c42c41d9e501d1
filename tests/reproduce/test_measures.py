"""Accuracies under the attacks of columns and curves, and a phase's loss, against plain calls."""

import dataclasses

import pytest
import torch
from torch.func import jacrev, vmap

from jacfast import bim, deepfool, models, pgd
from jacfast.evaluation import accuracy
from jacfast.evaluation.hessian import IMAGE_STEP
from jacfast.reproduce import parts
from jacfast.reproduce.config import Curve, Row, Table, Training
from jacfast.reproduce.measures import HESSIANS, Subject, find


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


def test_norms_and_bounds_by_the_formulas_of_the_papers(subject):
    """The Jacobians by torch.func, and DeepFool's images where a column is of these."""
    model, x = subject.model.double().requires_grad_(False), subject.x[:12].double()
    y = model(x).argmax(dim=1)
    subject.x, subject.y, subject.few, subject.labels = x, y, x, y
    moved = deepfool(model, x).adversarial

    def rows(points, of=model):
        return vmap(jacrev(lambda one: of(one[None])[0]))(points).flatten(2)

    def norm(points, of=model):
        return rows(points, of).square().sum(dim=(1, 2)).sqrt()

    def slope(points, y):
        others = model(points).scatter(1, y[:, None], -torch.inf).argmax(dim=1)
        everyone, jacobians = torch.arange(len(points)), rows(points)
        return jacobians[everyone, y] - jacobians[everyone, others]

    def hessian(one, y):
        away = IMAGE_STEP * torch.eye(36).double().view(36, 1, 6, 6)
        g = slope(one + away, y.expand(36)) - slope(one - away, y.expand(36))
        return (g + g.T) / (4 * IMAGE_STEP)

    z, jacobians, size = model(x).detach(), rows(x), x.flatten(1).norm(dim=1)
    first, second = z.topk(2).values.T
    w = jacobians[torch.arange(12), y][:, None] - jacobians
    far = (first[:, None] - z) / w.norm(dim=2)  # NaN of the class itself: 0 / 0
    change = (model(moved) - z).norm(dim=1) / (moved - x).flatten(1).norm(dim=1)
    most = torch.stack([norm(x + t / 8 * (moved - x)) for t in range(9)]).amax(dim=0)
    along = (jacobians @ x.flatten(1)[..., None]).square()[..., 0]
    want = {
        "accuracy": 100.0,
        "rho_adv": 100 * ((moved - x).flatten(1).norm(dim=1) / size).mean(),
        "norm_clean": norm(x).mean(),
        "norm_perturbed": norm(moved).mean(),
        "gradient_norm": slope(x, y).norm(dim=1).mean(),
        "hessian_norm": sum(hessian(x[i], y[i]).norm() for i in range(HESSIANS)) / HESSIANS,
        "bound_inner": 100 * ((first - second) / 2**0.5 / norm(x, model[:-1]) / size).mean(),
        "bound_frobenius": 100 * ((first - second) / 2**0.5 / norm(x) / size).mean(),
        "bound_nearest": 100 * (far.nan_to_num(nan=9e9).amin(dim=1) / size).mean(),
        "mean_value": 100 * (change / most).square().mean(),
        "curvature": 100 * ((along.amax(1) - along.amin(1)) / (norm(x) * size).square()).mean(),
    }
    for column, figure in want.items():
        assert find(column)(subject) == pytest.approx(float(figure), rel=1e-6), column


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
