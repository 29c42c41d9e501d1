"""What a toolbox does to inputs before the model is part of what its adapter attacks.

Two oracles: the toolbox's own DeepFool, and a model that has the same normalisation inside.
"""

import numpy as np
import pytest
import torch
from torch import nn

from jacfast import deepfool
from jacfast.attacks import PRESETS
from jacfast.attacks.adapters import for_art, for_attackbench, for_foolbox, for_torchattacks
from tests.nets import build

MEAN, STD = (0.3, 0.6), (0.05, 4.0)


class Normalised(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x):
        mean, std = (x.new_tensor(values).view(-1, 1, 1) for values in (MEAN, STD))
        return self.model((x - mean) / std)


@pytest.fixture
def problem():
    model, x = build("cnn", 12, torch.float32)
    x = x.sigmoid()
    y = Normalised(model.eval())(x).argmax(dim=1)
    return model, x, y


def lengths(moved, x: torch.Tensor) -> torch.Tensor:
    return (torch.as_tensor(moved) - x).flatten(1).norm(dim=1)


def close(got, want, x: torch.Tensor) -> None:
    torch.testing.assert_close(lengths(got, x), lengths(want, x), rtol=1e-2, atol=1e-4)
    assert float(lengths(want, x).min()) > 0


def classifier(model: nn.Module, clip=(0.0, 1.0), **choices):
    pytest.importorskip("art", reason="adversarial-robustness-toolbox is an optional rival")
    from art.estimators.classification import PyTorchClassifier

    loss = nn.CrossEntropyLoss()
    return PyTorchClassifier(
        model, loss, (2, 8, 8), 5, clip_values=clip, device_type="cpu", **choices
    )


def arts(which, x: torch.Tensor):
    from art.attacks.evasion import DeepFool

    return DeepFool(which, verbose=False, batch_size=12, nb_grads=5).generate(x.numpy())


def test_art_with_mean_and_std(problem):
    model, x, _ = problem
    mean, std = np.array(MEAN)[:, None, None], np.array(STD)[:, None, None]
    which = classifier(model, preprocessing=(mean, std))
    got = for_art(which).generate(x.numpy())
    close(got, arts(which, x), x)
    inside = for_art(classifier(Normalised(model))).generate(x.numpy())
    torch.testing.assert_close(torch.from_numpy(got), torch.from_numpy(inside))


def test_art_with_a_normalisation_on_arrays(problem):
    """The same numbers by ART's NumPy class, for which ART estimates the gradient by itself."""
    model, x, _ = problem
    pytest.importorskip("art", reason="adversarial-robustness-toolbox is an optional rival")
    from art.preprocessing.standardisation_mean_std.numpy import StandardisationMeanStd

    mean, std = np.array(MEAN)[:, None, None], np.array(STD)[:, None, None]
    got = for_art(classifier(model, preprocessing=StandardisationMeanStd(mean, std)))
    want = for_art(classifier(model, preprocessing=(mean, std)))
    moved = [torch.from_numpy(attack.generate(x.numpy())) for attack in (got, want)]
    torch.testing.assert_close(*moved, rtol=0, atol=1e-5)


def test_art_with_a_defence_on_arrays(problem):
    """ART runs it outside of PyTorch, and takes its gradient for the identity."""
    model, x, _ = problem
    pytest.importorskip("art", reason="adversarial-robustness-toolbox is an optional rival")
    from art.defences.preprocessor import SpatialSmoothing

    smooth = SpatialSmoothing(window_size=2, channels_first=True, clip_values=(0.0, 1.0))
    which = classifier(model, preprocessing_defences=smooth)
    close(for_art(which).generate(x.numpy()), arts(which, x), x)


def test_art_with_postprocessing(problem):
    model, x, _ = problem
    pytest.importorskip("art", reason="adversarial-robustness-toolbox is an optional rival")
    from art.defences.postprocessor import Rounded

    which = classifier(model, postprocessing_defences=Rounded(decimals=2))
    close(for_art(which).generate(x.numpy()), arts(which, x), x)


def test_art_with_bounds_for_each_channel(problem):
    model, x, _ = problem
    low, high = (np.full((2, 1, 1), v, dtype=np.float32) for v in (0, 1))
    high[1], x[:, 1] = 0.5, x[:, 1] / 2
    got = for_art(classifier(model, clip=(low, high))).generate(x.numpy())
    assert got[:, 1].max() <= 0.5
    box = tuple(torch.from_numpy(bound) for bound in (low, high))
    want = deepfool(model, x, **{**PRESETS["art"], "clip": box})
    torch.testing.assert_close(torch.from_numpy(got), want.adversarial)
    assert bool(want.success.all())


def test_art_with_a_network_in_float64(problem):
    model, x, _ = problem
    x = x.double()
    got = for_art(classifier(model.double())).generate(x.numpy())
    want = deepfool(model, x, **{**PRESETS["art"], "clip": (0.0, 1.0)}).adversarial
    torch.testing.assert_close(torch.from_numpy(got), want, rtol=0, atol=1e-12)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_art_takes_images_as_numpy_makes_them(problem, dtype):
    model, x, _ = problem
    got = for_art(classifier(model)).generate(x.numpy().astype(dtype))
    assert got.dtype == np.float32
    assert float(lengths(got, x).min()) > 0


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_art_takes_images_that_are_flipped_in_place(problem, dtype):
    """NumPy walks through such an array backwards, which no tensor does."""
    model, x, _ = problem
    attack, flipped = for_art(classifier(model.to(dtype))), x.to(dtype).numpy()[..., ::-1]
    assert np.array_equal(attack.generate(flipped), attack.generate(flipped.copy()))


def test_art_is_told_what_would_be_ignored(problem):
    model, x, _ = problem
    with pytest.raises(TypeError, match="unexpected keyword argument 'mask'"):
        for_art(classifier(model)).generate(x.numpy(), mask=np.zeros((2, 8, 8)))


@pytest.mark.parametrize(
    ("bounds", "wrapper"), [((0, 1), False), ((0, 255), False), ((0, 255), True)]
)
def test_foolbox_with_mean_std_and_flipped_channels(problem, bounds, wrapper):
    foolbox = pytest.importorskip("foolbox", reason="foolbox is an optional rival")
    model, x, _ = problem
    steps = {"mean": torch.tensor(MEAN), "std": torch.tensor(STD), "axis": -3, "flip_axis": -3}
    peer = foolbox.PyTorchModel(model, bounds=(0, 1), device="cpu", preprocessing=steps)
    peer, x = peer.transform_bounds(bounds, wrapper=wrapper), x * bounds[1]
    y = peer(x).argmax(dim=1)
    want = foolbox.attacks.L2DeepFoolAttack(candidates=10)(peer, x, y, epsilons=None)
    got = for_foolbox()(peer, x, y.int(), epsilons=None)
    assert torch.equal(got[2], want[2])
    torch.testing.assert_close(lengths(got[0], x), lengths(want[0], x), rtol=1e-2, atol=2e-4)
    inside = Normalised(model)
    as_one = deepfool(
        lambda z: inside(z.flip(1) / bounds[1]), x, **{**PRESETS["foolbox"], "clip": bounds}
    )
    torch.testing.assert_close(got[0], as_one.adversarial, rtol=1e-3, atol=1e-3 * bounds[1])


def test_torchattacks_with_normalisation(problem):
    torchattacks = pytest.importorskip("torchattacks", reason="torchattacks is an optional rival")
    model, x, y = problem
    mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (MEAN, STD))
    moved = []
    for attack in (torchattacks.DeepFool(model, steps=50), for_torchattacks(model)):
        attack.set_normalization_used(MEAN, STD)
        moved.append(attack((x - mean) / std, y) * std + mean)
    close(moved[1], moved[0], x)
    want = for_torchattacks(Normalised(model))(x, y)
    torch.testing.assert_close(moved[1], want, rtol=0, atol=1e-5)


def test_torchattacks_leaves_the_mode_of_each_module(problem):
    pytest.importorskip("torchattacks", reason="torchattacks is an optional rival")
    model, x, y = problem
    model.train()
    model[2].eval()
    modes = [module.training for module in model.modules()]
    for_torchattacks(model)(x, y)
    assert [module.training for module in model.modules()] == modes


def test_attackbench_with_the_normalisation_inside(problem):
    model, x, y = problem
    got = for_attackbench(Normalised(model), x, y)
    want = deepfool(Normalised(model), x, y, **PRESETS["advlib"])
    assert torch.equal(got[want.success], want.adversarial[want.success])
    assert bool(want.success.any())
