"""What deepfool returns: its table, its file, and whether it survives being saved as pixels."""

import math

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from jacfast import DeepFoolResult, deepfool
from tests.nets import build


def identity() -> nn.Module:
    """Return a model of two classes: entry 0 above or below 1/2."""
    model = nn.Linear(2, 2, bias=True).double()
    model.weight.data = torch.tensor([[1.0, 0.0], [0.0, 0.0]]).double()
    model.bias.data = torch.tensor([0.0, 0.5]).double()
    return model


def test_summary():
    model = identity()
    x = torch.tensor([[0.9, 0.0], [0.6, 0.0], [0.5, 0.0], [math.nan, 0.0]]).double()
    text = deepfool(model, x[:2], overshoot=0.0, floor=1e-6).summary()
    lines = {line[:37].strip(): line[37:].strip() for line in text.splitlines()}
    assert lines["samples"] == "2"
    assert lines["fooled, %"] == "100.00"
    assert lines["stalled"] == "0"
    assert lines["||r||_2, mean of fooled"] == "0.25"
    assert lines["||r||_2, largest of fooled"] == "0.4"
    assert lines["iterations, mean"] == "1.00"
    assert lines["vector-Jacobian products per sample"] == "1.0"
    assert "stalled                                      1" in deepfool(model, x[3:]).summary()
    assert "||r||_inf, mean" in deepfool(model, x[:2], p=math.inf).summary()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_saves_and_loads(tmp_path, dtype):
    model, x = build("cnn", 3, dtype)
    found = deepfool(model, x, p=math.inf)
    found.save(tmp_path / "found.safetensors")
    again = DeepFoolResult.load(tmp_path / "found.safetensors")
    assert again.p == math.inf
    for name in DeepFoolResult.names():
        got, want = getattr(again, name), getattr(found, name)
        assert got.dtype == want.dtype
        assert torch.equal(got, want)


def test_loads_figures_without_the_images(tmp_path):
    """What lies in their place in the file is not looked at."""
    found = deepfool(*build("cnn", 3, torch.float64))
    found.save(tmp_path / "found.safetensors")
    slim = DeepFoolResult.load(tmp_path / "found.safetensors", images=False)
    assert slim.figures() == found.figures()
    assert slim.r.shape == slim.adversarial.shape == (0, *found.r.shape[1:])
    assert slim.r.dtype == torch.float64
    joined = DeepFoolResult.cat([slim, slim])
    assert joined.figures()["samples"] == 6


def test_a_file_of_something_else_is_refused(tmp_path):
    save_file({"norm": torch.ones(2)}, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match=r"path must be a file that DeepFoolResult.save wrote"):
        DeepFoolResult.load(tmp_path / "other.safetensors")


def test_a_file_that_is_cut_short_is_refused(tmp_path):
    path = tmp_path / "found.safetensors"
    deepfool(*build("mlp", 3)).save(path)
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(ValueError, match=r"safetensors cannot be read, the file is cut short"):
        DeepFoolResult.load(path)


def test_rounding_undoes_a_short_overshoot():
    """From 0.6 to 0.498: of 256 levels 127/255 is below a half, of 11 levels 0.5 is not."""
    model, x = identity(), torch.tensor([[0.6, 0.0], [0.9, 0.0]]).double()
    found = deepfool(model, x)
    assert bool(found.success.all())
    assert found.survives_rounding(model).tolist() == [True, True]
    assert found.survives_rounding(model, levels=11).tolist() == [False, False]
    failed = deepfool(model, x, max_norm=0.01)
    assert failed.survives_rounding(model).tolist() == [False, False]
    assert found.survives_rounding(model, box=(0.7, 1.0)).tolist() == [False, False]


def test_levels_beyond_what_float16_counts_to():
    """At 1 level 65,535 of 16 bits, which float16 does not hold, is 1: nothing is rounded."""
    model, x = identity().half(), torch.tensor([[1.0, 1.0], [1.0, 0.0]], dtype=torch.float16)
    found = deepfool(model, x, torch.tensor([1, 0]), clip=(0.0, 1.0))
    assert found.success.tolist() == [True, True]
    assert found.survives_rounding(model, levels=2**16).tolist() == [True, True]


def test_rounding_leaves_the_model_as_it_was():
    model, x = build("cnn", 3)
    found = deepfool(model.eval(), x)
    model.train()
    found.survives_rounding(model)
    assert all(module.training for module in model.modules())
    assert all(p.requires_grad and p.grad is None for p in model.parameters())


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"levels": 1}, ValueError, "levels must be >= 2; got 1"),
        ({"levels": 2.5}, TypeError, "levels must be an integer; got 2.5"),
        ({"box": (1, 0)}, ValueError, r"box must be \(low, high\).*; got \(1, 0\)"),
        ({"box": 1}, ValueError, r"box must be \(low, high\).*; got 1"),
        ({"box": None}, ValueError, r"box must be finite, \(low, high\), to have levels; got None"),
        ({"box": (0, math.inf)}, ValueError, r"box must be finite.*; got \(0, inf\)"),
    ],
)
def test_errors(options, error, message):
    model, x = build("mlp", 3)
    with pytest.raises(error, match=message):
        deepfool(model, x).survives_rounding(model, **options)
