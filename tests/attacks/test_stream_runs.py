"""deepfool_to_disk: what is the same run, and goes on, and what is another one."""

import copy

import pytest
import torch
from torch import nn

from jacfast import deepfool_to_disk
from jacfast.attacks import stream
from tests.attacks.streams import loader


def test_how_it_is_shown_is_no_part_of_the_run(tmp_path, problem, attacked):
    model, x, _ = problem
    for progress in (False, True):
        deepfool_to_disk(tmp_path, model, [x], progress=progress)
    assert attacked == [10]


def test_who_gives_the_defaults_has_the_same_run(tmp_path, problem):
    model, x, _ = problem
    for options in ({}, {"steps": 50, "args": (), "kwargs": {}}):
        deepfool_to_disk(tmp_path, model, [x[:2]], **options)


def test_what_another_version_has_written_is_another_run(tmp_path, problem, monkeypatch):
    model, x, _ = problem
    deepfool_to_disk(tmp_path, model, [x])
    monkeypatch.setattr(stream, "__version__", "0.0.9")
    with pytest.raises(ValueError, match=r"belongs to another run: jacfast was .* now '0\.0\.9'"):
        deepfool_to_disk(tmp_path, model, [x])


@pytest.mark.parametrize("change", ["options", "model", "order", "foreign", "mask"])
def test_another_attack_is_refused_and_nothing_changes(tmp_path, problem, change):
    model, x, y = problem
    out = tmp_path / "out"
    mask = torch.ones(2, 8, 8)
    if change == "foreign":
        out.mkdir()
        (out / "thesis.txt").write_text("mine")
    else:
        deepfool_to_disk(out, model, loader(x, y), clip=(-9, 9), mask=mask)
    files = {path: path.read_bytes() for path in out.iterdir()}
    options = {"clip": (-9, 9), "mask": mask}
    if change == "options":
        options["overshoot"] = 0.5
    if change == "mask":
        options["mask"] = mask.clone().index_fill_(0, torch.tensor([0]), 0)
    if change == "model":
        next(model.parameters()).data[0] += 1
    message = {
        "order": "batches must come in the same order",
        "foreign": "out must be empty or of the same run",
    }.get(change, f"belongs to another run: {change if change == 'model' else 'options'}")
    with pytest.raises(ValueError, match=message):
        deepfool_to_disk(out, model, loader(x.flip(0) if change == "order" else x, y), **options)
    assert files == {path: path.read_bytes() for path in out.iterdir()}


class Detached(nn.Module):
    """The same logits, with half of the gradient."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x):
        z = self.net(x)
        return 0.5 * z + 0.5 * z.detach()

    def state_dict(self, *args, **kwargs):
        return self.net.state_dict(*args, **kwargs)


def another(kind: str, model: nn.Module):
    """Return a model of the same weights that does something else."""
    if kind == "backward":
        return Detached(model)
    if kind == "function":
        return lambda x: 2 * model(x)
    other = copy.deepcopy(model)
    if kind == "scale":
        other.register_forward_hook(lambda _module, _inputs, z: 1.01 * z)
        return other
    for name, module in other.named_modules():
        if isinstance(module, nn.ReLU):
            setattr(other, name, nn.LeakyReLU(0.01) if kind == "leaky" else nn.GELU(kind))
    return other


@pytest.mark.parametrize("kind", ["leaky", "none", "scale", "backward", "function"])
def test_a_model_of_the_same_weights_that_does_something_else_is_another_run(tmp_path, kind):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 8), nn.ReLU(), nn.Linear(8, 4))
    model, x = model.eval(), torch.rand(6, 3, 2, 2)
    first = (lambda x: model(x)) if kind == "function" else model
    deepfool_to_disk(tmp_path, first, [x])
    before = (tmp_path / "000000.safetensors").read_bytes()
    with pytest.raises(ValueError, match="belongs to another run: the model's"):
        deepfool_to_disk(tmp_path, another(kind, model), [x])
    assert (tmp_path / "000000.safetensors").read_bytes() == before
    deepfool_to_disk(tmp_path, first, [x])


def test_the_two_kinds_of_gelu_are_told_apart(tmp_path):
    torch.manual_seed(0)
    nets = [
        nn.Sequential(nn.Linear(9, 9), nn.GELU(kind), nn.Linear(9, 4)) for kind in ("none", "tanh")
    ]
    nets[1].load_state_dict(nets[0].state_dict())
    x = torch.randn(20, 9)
    deepfool_to_disk(tmp_path, nets[0], [x])
    with pytest.raises(ValueError, match="belongs to another run: the model's logits"):
        deepfool_to_disk(tmp_path, nets[1], [x])


def test_other_roundings_are_the_same_run(tmp_path, attacked):
    """Logits of another machine, or number of threads: here of another order of sums."""
    torch.manual_seed(0)
    first, last, turned = torch.randn(300, 999), torch.randn(5, 300), torch.randperm(300)

    def model(x):
        return (x @ first.T).relu() @ last.T

    def other(x):
        return (x @ first[turned].T).relu() @ last[:, turned].T

    x = torch.randn(9, 999)
    assert not torch.equal(model(x), other(x))
    deepfool_to_disk(tmp_path, model, [x])
    deepfool_to_disk(tmp_path, other, [x])
    assert attacked == [9]


def test_other_labels_are_another_run(tmp_path, problem):
    model, x, y = problem
    deepfool_to_disk(tmp_path, model, [(x, y)], labels=True)
    with pytest.raises(ValueError, match="is of other images or labels"):
        deepfool_to_disk(tmp_path, model, [(x, (y + 1) % 5)], labels=True)
