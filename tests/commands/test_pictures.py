"""Each picture of jacfast plot: what it is of, and of which images."""

import pathlib
import tomllib

import pytest
import torch

from jacfast import deepfool, evaluation, fgsm, models, plots, reproduce
from jacfast.attacks import jsma
from jacfast.commands import attacked, pictures, planes
from jacfast.commands.plot import AROUND, NAMES
from jacfast.commands.subject import Subject


def test_the_names_are_those_of_the_pictures():
    assert NAMES.keys() == pictures.PICTURES.keys()


@pytest.fixture
def subject(folder, digits):
    """Return what the pictures of the two little networks are of, and no files."""
    networks = {}
    for name in ("other", "plain"):
        networks[name] = models.deep_defense_mlp()
        models.load_weights(networks[name], folder / f"{name}.pt")
    return Subject(networks, digits.test_x[:30], digits.test_y[:30], None)


def given(monkeypatch, figure):
    """Return a dict that will hold what a function of jacfast.plots is called with."""
    seen = {}
    monkeypatch.setattr(plots, figure, lambda *args, **options: seen.update(args=args, **options))
    return seen


def test_the_line_is_that_of_fgsm_and_shows_the_first_boundary(subject, monkeypatch):
    seen = given(monkeypatch, "line_figure")
    pictures.line(subject)
    (found,) = seen["args"]
    x, y = subject.one()
    assert found.keys() == subject.models.keys()
    for name, line in found.items():
        model, t = subject.models[name], line.t.tolist()
        moved = torch.cat([fgsm(model, x, y, eps=eps, clip=None) for eps in t])
        want = evaluation.decision_function(model, moved, y.expand(len(t)))
        torch.testing.assert_close(line.value, want.double(), rtol=1e-4, atol=1e-4)
    first = found["other"]
    assert line.t[0] == first.t[0] == 0
    assert line.t[-1] == first.t[-1]
    where = torch.nn.functional.pad((first.value <= 0).double(), (1, 0)).diff().argmax()
    assert float(first.t[where]) == pytest.approx(float(first.t[-1]) / 1.5, rel=0.05)


def test_a_line_without_a_boundary_goes_through_the_whole_box(subject, monkeypatch):
    seen = given(monkeypatch, "line_figure")
    subject.models["other"][-1].bias.data[subject.one()[1]] = 1e6
    pictures.line(subject)
    assert float(seen["args"][0]["other"].t[-1]) == 1.0


def test_the_hessian_is_by_differences_of_the_step_that_is_named(monkeypatch):
    """S = sum x_i^4: by +-h a diagonal of 12 x^2 + 4 h^2."""
    seen = given(monkeypatch, "hessian_figure")

    def quartic(x):
        s = x.flatten(1).pow(4).sum(dim=1, keepdim=True)
        return torch.cat([s, 0 * s], dim=1)

    x = torch.rand(3, 1, 4, 4, dtype=torch.float64)
    y = torch.tensor([1, 0, 0])  # the second is the first that is classified correctly
    pictures.hessians(Subject({"m": quartic}, x, y, None))
    want = (12 * x[1].flatten() ** 2 + 4 * 0.05**2).diag()
    torch.testing.assert_close(seen["args"][0]["m"], want)
    assert seen["step"] == 0.05


def test_jsma_changes_one_pixel_80_times_as_in_the_table(subject, monkeypatch):
    seen = given(monkeypatch, "accuracy_figure")
    attacked.accuracy_jsma(subject)
    epsilons, curves = seen["args"]
    path = pathlib.Path(reproduce.__file__).parent / "tables" / "jg-table3.toml"
    (table,) = (c for c in tomllib.loads(path.read_text())["curves"] if c["attack"] == "jsma")
    model = subject.models["plain"]
    for eps in (0.2, 1.0):
        moved = jsma(model, subject.x, subject.y, eps=eps, **table["options"])
        want = evaluation.accuracy(model, moved, subject.y)
        assert curves["plain"][epsilons.index(eps)] == want
    assert curves["plain"][0] == evaluation.accuracy(model, subject.x, subject.y)
    assert curves["plain"][-1] < curves["plain"][0]
    assert seen["attack"] == "JSMA"


def test_the_images_of_fgsm_are_those_of_eps_ref_of_the_last_model(subject, monkeypatch):
    seen = given(monkeypatch, "perturbation_figure")
    attacked.perturbations_fgsm(subject)
    x, y, results = seen["args"]
    eps = evaluation.reference_epsilon(subject.models["plain"], x, y)
    for name, model in subject.models.items():
        found, moved = results[name], fgsm(model, x, eps=eps)
        right = found.before == y
        assert torch.equal(moved[right], fgsm(model, x, y, eps=eps)[right])
        assert torch.equal(found.adversarial, moved)
        torch.testing.assert_close(x + found.r, moved)
        torch.testing.assert_close(found.norm, torch.linalg.vector_norm(moved - x, dim=(1, 2, 3)))
        with torch.no_grad():
            assert torch.equal(found.before, model(x).argmax(dim=1))
            assert torch.equal(found.success, model(moved).argmax(dim=1) != found.before)
    assert results["plain"].success.any()


@pytest.mark.parametrize("factor", [0.0, 1e-9])
def test_without_eps_ref_accuracy_is_that_of_the_whole_box(subject, factor, monkeypatch):
    """All logits alike: half of the images are wrong at once; one far above: they never are."""
    last = subject.models["plain"][-1]
    last.weight.data *= factor
    last.bias.data *= factor
    if factor:
        subject = Subject(subject.models, subject.x[:3], torch.full((3,), 4), None)
        last.bias.data[4] = 1.0
    seen = given(monkeypatch, "accuracy_figure")
    attacked.accuracy(subject)
    epsilons, curves, reference = seen["args"]
    assert reference is None
    assert epsilons[0] == 0
    assert epsilons[-1] == 1
    assert (curves["plain"][0] > 0.5) == (curves["plain"][-1] > 0.5) == bool(factor)
    with pytest.raises(ValueError, match="perturbations-fgsm needs eps_ref: the last model must"):
        attacked.perturbations_fgsm(subject)


def test_accuracy_goes_half_as_far_again_as_eps_ref(subject, monkeypatch):
    seen = given(monkeypatch, "accuracy_figure")
    attacked.accuracy(subject)
    epsilons, curves, reference = seen["args"]
    model, x, y = subject.models["plain"], subject.x, subject.y
    assert reference == evaluation.reference_epsilon(model, x, y)
    assert epsilons == pytest.approx([0.1 * i * reference for i in range(16)])
    for name, other in subject.models.items():
        moved = fgsm(other, x, y, eps=epsilons[5])
        assert curves[name][5] == evaluation.accuracy(other, moved, y)


def test_roc_is_of_the_two_worst_classes_of_the_first_model_on_its_images(subject, monkeypatch):
    seen = given(monkeypatch, "roc_figure")
    attacked.roc(subject)
    curves, shown = seen["args"]
    x = deepfool(subject.models["other"], subject.x).adversarial
    for name, model in subject.models.items():
        for k, want in evaluation.roc_curves(model, x, subject.y).items():
            assert curves[name][k].auc == want.auc
    areas = sorted((of.auc, k) for k, of in curves["other"].items())
    assert areas[1] < areas[-1]
    assert shown == sorted(k for _, k in areas[:2])


def test_jacobians_are_of_the_first_images_that_all_know(subject, monkeypatch):
    seen = given(monkeypatch, "map_figure")
    subject.y[0] = (subject.y[0] + 1) % 10  # of which both are wrong
    pictures.jacobians(subject)
    x, maps = seen["args"]
    right = [model(subject.x).argmax(dim=1) == subject.y for model in subject.models.values()]
    some = (right[0] & right[1]).nonzero()[:4, 0]
    assert some[0] > 0
    assert torch.equal(x, subject.x[some])
    for name, model in subject.models.items():
        want = evaluation.decision_gradient(model, x, subject.y[some])
        torch.testing.assert_close(maps[name], want)


def test_spectra_have_the_entries_of_all_images(subject, monkeypatch):
    seen, hessians = given(monkeypatch, "spectra_figure"), []
    monkeypatch.setattr(
        evaluation, "hessian_eigenvalues", lambda _model, x, y, step: hessians.append((x, y))
    )
    pictures.spectra(subject)
    entries, _ = seen["args"]
    for name, model in subject.models.items():
        want = evaluation.decision_gradient(model, subject.x, subject.y)
        torch.testing.assert_close(entries[name], want)
    assert [(len(x), len(y)) for x, y in hessians] == [(2, 2)] * 2


def test_in_parameter_space_the_loss_is_the_mean_over_the_images(subject, monkeypatch):
    seen = given(monkeypatch, "contour_figure")
    planes.spaces(subject)
    (grid,) = seen["args"]
    for name, model in subject.models.items():
        surface = grid[name]["in parameter space"]
        with torch.no_grad():
            want = torch.nn.functional.cross_entropy(model(subject.x), subject.y)
        assert float(surface.values[7, 7]) == pytest.approx(float(want), rel=1e-5)
        assert float(surface.steps[-1]) == 1.0


def test_reliefs_of_the_loss_are_of_a_random_and_its_own_direction(subject, monkeypatch):
    seen = given(monkeypatch, "relief_figure")
    planes.loss_relief(subject)
    (grid,) = seen["args"]
    x, y = subject.one()
    assert list(grid) == ["other", "plain"]
    for name, model in subject.models.items():
        assert list(grid[name]) == ["random", "CE, true label"]
        surface = grid[name]["CE, true label"]
        assert surface.of == "loss"
        g = evaluation.input_direction(model, x, y, "loss")
        with torch.no_grad():
            end = torch.nn.functional.cross_entropy(model(x + float(surface.steps[-1]) * g), y)
        torch.testing.assert_close(surface.values[-1, 20], end.double(), rtol=1e-4, atol=1e-5)


def test_cells_are_in_the_plane_of_r_whose_boundary_is_at_the_radius(subject, monkeypatch):
    seen = given(monkeypatch, "cells_figure")
    planes.cells(subject)
    surfaces, radii = seen["args"]
    x, y = subject.one()
    for name, model in subject.models.items():
        r, steps, values = deepfool(model, x).r, surfaces[name].steps, surfaces[name].values
        assert radii[name] == pytest.approx(float(r.norm()))
        assert float(steps[-1]) == pytest.approx(2.5 * max(radii.values()))  # one scale
        u = evaluation.input_direction(model, x, y, "random", seed=1).double()
        u = u - (u * r).sum() / (r * r).sum() * r
        for i in (3, 40, 71):
            with torch.no_grad():
                first = model(x + steps[i].float() * r / r.norm())[0]
                second = model(x + (steps[i] * u / u.norm()).float())[0]
            torch.testing.assert_close(values[i, 40].float(), first, rtol=1e-3, atol=1e-4)
            torch.testing.assert_close(values[40, i].float(), second, rtol=1e-3, atol=1e-4)
        other = values[40:, 40].argmax(dim=1) != y
        crossing = float(steps[40:][other][0])
        way = torch.linspace(0, float(steps[-1]), 4001)
        with torch.no_grad():
            past = model(x + way[:, None, None, None] * r / r.norm()).argmax(dim=1) != y
        first = float(way[past][0])  # DeepFool may have gone round an earlier boundary
        assert first <= radii[name] + float(way[1])
        assert -float(way[1]) <= crossing - first <= float(steps[41])


def test_cells_without_a_deepfool_image(subject):
    subject.models["other"][-1].weight.data.zero_()
    subject.models["other"][-1].bias.data[subject.y[0]] = 1.0
    with pytest.raises(
        ValueError, match=r"cells needs a DeepFool image of each model; none .* other"
    ):
        planes.cells(subject)


@pytest.mark.parametrize("picture", [planes.decision, planes.loss])
def test_planes_are_as_wide_as_a_boundary_needs(picture, monkeypatch):
    """S = c - w x: in a plane S is c - a (alpha w) - b (beta w), least in a corner."""
    seen = given(monkeypatch, "contour_figure")
    w = torch.randn(1, 12, 12, generator=torch.Generator().manual_seed(3))

    def linear(far):
        def model(x):
            s = far * w.norm() - (x * w).flatten(1).sum(dim=1)
            return torch.stack([s, 0 * s], dim=1)

        return model

    x, y, models = (
        torch.zeros(1, 1, 12, 12),
        torch.zeros(1).long(),
        {"a": linear(2.0), "b": linear(1.9)},
    )
    subject = Subject(models, x, y, None)
    radius = max(float(found.norm[0]) for found in subject.attacked(x).values())
    picture(subject)
    (grid,) = seen["args"]
    wide = set()
    for column in planes.TITLES.values():
        steps = {tuple(row[column].steps.tolist()) for row in grid.values()}
        assert len(steps) == 1  # the models' panels have one scale
        extent = steps.pop()[-1]
        wide.add(round(extent / radius))
        kind = next(k for k, title in planes.TITLES.items() if title == column)
        pair = (
            evaluation.input_direction(models["b"], x, y, k, seed=seed)[0]
            for k, seed in ((kind, 0), ("random", 1))
        )
        slopes = (evaluation.plane(*pair) * w).flatten(1).sum(dim=1).abs().sum()
        needed = 1.9 * float(w.norm() / slopes)  # of the model whose boundary is nearer
        assert needed < extent
        assert extent < 2 * needed or extent == pytest.approx(2 * radius)
    assert wide > {2}  # the random one is wider


@pytest.mark.parametrize("name", sorted(NAMES.keys() - {f"{kind}-relief" for kind in AROUND}))
def test_the_pictures_of_one_image_are_those_named(subject, name, monkeypatch):
    monkeypatch.setattr(pictures, "SPECTRA", 1)
    asked, one = [], Subject.one
    monkeypatch.setattr(Subject, "one", lambda self: asked.append(self) or one(self))
    pictures.PICTURES[name](subject)
    assert bool(asked) == (name in AROUND)


@pytest.mark.filterwarnings("ignore:the model's logits are NaN")
def test_an_image_with_nan_logits_is_not_one_that_a_model_knows():
    """The first NaN is what argmax takes for the largest logit."""
    nan = torch.tensor([torch.nan, 1.0])
    model = torch.nn.Identity()
    model.forward = lambda x: torch.where(x > 0.5, nan, torch.tensor([0.0, 1.0]))
    subject = Subject({"m": model}, torch.tensor([[1.0], [0.0]]), torch.tensor([0, 1]), None)
    assert subject.known().tolist() == [1]
