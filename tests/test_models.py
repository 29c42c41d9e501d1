"""The papers' networks by their published sizes, and a user's model and weights."""

import copy
import os
import sys

import pytest
import torch
from torch import nn

from jacfast import data, models
from tests.nets import draw


def small(seed: int) -> nn.Sequential:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return models.mlp(4, 3, 2)


SMALL = small(seed=0)


@pytest.mark.parametrize(
    ("name", "shape", "parameters"),
    [
        ("tf_tutorial_cnn", (1, 28, 28), 3_274_634),
        ("cifar_cnn", (3, 32, 32), 716_074),
        ("fc500", (1, 28, 28), 469_160),
        ("deep_defense_mlp", (1, 28, 28), 79_510),
        ("seck_a", (1, 28, 28), 710_218),
        ("seck_b", (1, 28, 28), 1_460_938),
        ("seck_c", (1, 28, 28), 567_434),
        ("yu_cifar_cnn", (3, 32, 32), 279_050),
    ],
)
def test_sizes_and_logits(name, shape, parameters):
    make = getattr(models, name)
    model = make()
    assert sum(p.numel() for p in model.parameters()) == parameters
    assert f"{parameters:,} parameters" in make.__doc__
    assert model(draw(2, *shape, dtype=torch.float32)).shape == (2, 10)


def kinds(model: nn.Sequential) -> str:
    """Return the layers' initials: Conv, Relu, Maxpool, Dropout, Flatten, Linear."""
    return "".join(type(layer).__name__[0] for layer in model)


def test_layers_come_in_the_order_of_the_papers():
    assert kinds(models.tf_tutorial_cnn()) == "CRM" + "CRM" + "FLRDL"
    assert kinds(models.cifar_cnn()) == "CRCRMD" * 4 + "FLRL"
    assert kinds(models.seck_a()) == "CRCRCR" + "FL"
    assert kinds(models.seck_b()) == "CRCR" + "FLRL"
    assert kinds(models.seck_c()) == "F" + "LR" * 3 + "L"


@pytest.mark.parametrize(
    ("name", "layers"), [("tf_tutorial_cnn_orthonormal", 1), ("tf_tutorial_cnn_orthonormal_2", 2)]
)
def test_fixed_layers_are_orthonormal(name, layers):
    """With W's rows orthonormal, ||W J|| <= ||J|| (Jakubovitz & Giryes, proposition 4)."""
    model = getattr(models, name)()
    linear = [layer for layer in model if isinstance(layer, nn.Linear)]
    for layer in linear[-layers:]:
        rows = layer.weight.double()
        assert not layer.weight.requires_grad
        assert layer.bias.requires_grad
        torch.testing.assert_close(rows @ rows.T, torch.eye(len(rows)).double(), atol=1e-5, rtol=0)
    assert sum(not parameter.requires_grad for parameter in model.parameters()) == layers


def test_dropout_keeps_what_the_papers_keep():
    def rates(model: nn.Sequential) -> set[float]:
        return {layer.p for layer in model if isinstance(layer, nn.Dropout)}

    assert rates(models.tf_tutorial_cnn()) == {0.5}  # keep 0.5
    assert rates(models.cifar_cnn()) == {0.25}  # keep 0.75


def test_cifar_cnn_of_100_classes():
    model = models.cifar_cnn(100)
    assert sum(p.numel() for p in model.parameters()) == 739_204
    assert model(draw(2, 3, 32, 32, dtype=torch.float32)).shape == (2, 100)


def test_widths_and_classes_are_checked():
    for widths in ((), (784,)):
        with pytest.raises(ValueError, match=r"widths must be two sizes or more; got"):
            models.mlp(*widths)
    with pytest.raises(ValueError, match=r"widths must be >= 1; got 0"):
        models.mlp(784, 0, 10)
    with pytest.raises(ValueError, match=r"classes must be >= 2; got 1"):
        models.cifar_cnn(1)


def test_deep_defense_weights_are_from_a_cut_normal():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = models.deep_defense_mlp()
    weight = model[1].weight.detach()
    assert 0.0195 < float(weight.abs().max()) <= 0.02
    # A unit normal cut at 2 has sd 0.8796. 78,400 draws: 2% is 11 standard errors.
    assert float(weight.std()) == pytest.approx(0.008796, rel=0.02)
    assert not model[1].bias.any()


def equal(first: nn.Module, second: nn.Module) -> bool:
    pairs = zip(first.state_dict().items(), second.state_dict().items(), strict=True)
    return all(a == b and torch.equal(x, y) for (a, x), (b, y) in pairs)


def test_weights_come_back(tmp_path):
    saved, model = small(seed=1), small(seed=2)
    assert not equal(saved, model)
    torch.save(saved.state_dict(), tmp_path / "w.pt")
    models.load_weights(model, tmp_path / "w.pt")
    assert equal(saved, model)


def test_weights_of_another_precision_and_buffers(tmp_path):
    saved = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3))
    saved(draw(5, 4, dtype=torch.float32))  # moves the running statistics
    torch.save(copy.deepcopy(saved).double().state_dict(), tmp_path / "w.pt")
    model = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3))
    models.load_weights(model, str(tmp_path / "w.pt"))
    assert model[0].weight.dtype == torch.float32
    assert equal(saved, model)


def test_safetensors(tmp_path):
    safe = pytest.importorskip("safetensors.torch", reason="safetensors is an optional package")
    saved, model = small(seed=1), small(seed=2)
    safe.save_file(saved.state_dict(), tmp_path / "w.safetensors")
    models.load_weights(model, tmp_path / "w.safetensors")
    assert equal(saved, model)
    (tmp_path / "w.safetensors").write_bytes(b"no")
    with pytest.raises(
        ValueError, match=r"w\.safetensors must be a state_dict; .*damaged: Safetensor"
    ):
        models.load_weights(model, tmp_path / "w.safetensors")
    assert equal(saved, model)


def prefixed(prefix: str) -> dict[str, torch.Tensor]:
    return {prefix + key: value for key, value in small(seed=1).state_dict().items()}


@pytest.mark.parametrize(
    "value",
    [
        {"state_dict": prefixed(""), "epoch": 3, "optimizer": {"lr": 0.1}},
        {"epoch": 3, "model": prefixed("module.")},
        {"model_state_dict": {"state_dict": prefixed("")}},
        prefixed("module."),
        prefixed("_orig_mod."),
        prefixed("_orig_mod.module."),
        prefixed("module._orig_mod.model."),
        prefixed("model.module."),  # Lightning's, of a model within DataParallel
        {key.replace(".", "._orig_mod."): value for key, value in prefixed("").items()},
    ],
)
def test_weights_as_people_have_them(tmp_path, value):
    model = small(seed=2)
    torch.save(value, tmp_path / "w.pt")
    models.load_weights(model, tmp_path / "w.pt")
    assert equal(model, small(seed=1))


def test_prefixes_that_are_the_models_own_stay(tmp_path):
    saved, model = (nn.ModuleDict({"module": nn.ModuleDict({"module": small(n)})}) for n in (1, 2))
    torch.save(
        {f"module.{key}": value for key, value in saved.state_dict().items()}, tmp_path / "w"
    )
    models.load_weights(model, tmp_path / "w")
    assert equal(saved, model)


class Extra(nn.Module):
    """A layer with a state that is no tensor, of which it refuses a negative one."""

    def __init__(self, calls=0) -> None:
        super().__init__()
        self.layer, self.calls = nn.Linear(4, 3), calls

    def get_extra_state(self):
        return {"calls": self.calls, "kind": "extra"}

    def set_extra_state(self, state):
        if state["calls"] < 0:
            raise KeyError("no such number of calls")
        self.calls = state["calls"]


@pytest.mark.parametrize("wrapped", [False, True])
def test_the_extra_state_of_a_module_is_loaded(tmp_path, wrapped):
    saved, model = nn.Sequential(Extra(3)), nn.Sequential(Extra())
    state = saved.state_dict()
    torch.save({"state_dict": state, "epoch": 3} if wrapped else state, tmp_path / "w.pt")
    models.load_weights(model, tmp_path / "w.pt")
    assert model[0].calls == 3
    assert torch.equal(model[0].layer.weight, saved[0].layer.weight)


def test_an_extra_state_that_the_module_refuses_changes_nothing(tmp_path):
    model = nn.Sequential(Extra(1), Extra(2))
    before = copy.deepcopy(model.state_dict())
    torch.save(nn.Sequential(Extra(3), Extra(-1)).state_dict(), tmp_path / "w.pt")
    with pytest.raises(ValueError, match=r"w\.pt must fit the model: KeyError.*no such number"):
        models.load_weights(model, tmp_path / "w.pt")
    assert [one.calls for one in model] == [1, 2]
    for name, value in model.state_dict().items():
        assert value == before[name] if "extra" in name else torch.equal(value, before[name])


def test_an_extra_state_of_another_shape_is_the_modules_own_affair(tmp_path):
    class Sized(Extra):
        def get_extra_state(self):
            return torch.ones(self.calls)

        def set_extra_state(self, state):
            self.calls = len(state)

    model = Sized(2)
    torch.save(Sized(3).state_dict(), tmp_path / "w.pt")
    models.load_weights(model, tmp_path / "w.pt")
    assert model.calls == 3


def test_archives_of_programs_name_the_remedy(tmp_path):
    torch.jit.save(torch.jit.trace(SMALL, torch.rand(2, 4)), tmp_path / "script.pt")
    with pytest.raises(ValueError, match=r"torch\.jit\.load\('.*script\.pt'\)\.state_dict\(\)"):
        models.load_weights(SMALL, tmp_path / "script.pt")
    program = torch.export.export(SMALL, (torch.rand(2, 4),))
    torch.export.save(program, tmp_path / "program.pt2")
    with pytest.raises(ValueError, match=r"torch\.export\.load\('.*program\.pt2'\)\.state_dict"):
        models.load_weights(SMALL, tmp_path / "program.pt2")


def test_without_safetensors_the_error_names_the_command(tmp_path, monkeypatch):
    (tmp_path / "w.safetensors").touch()
    monkeypatch.setitem(sys.modules, "safetensors.torch", None)
    with pytest.raises(ImportError, match="run pip install safetensors"):
        models.load_weights(SMALL, tmp_path / "w.safetensors")


class Hostile:
    def __reduce__(self):
        return os.mkdir, ("ran",)


def all_ones_but(key: str, tensor: torch.Tensor) -> dict[str, torch.Tensor]:
    """Return a state_dict that fits `SMALL` but for one tensor."""
    return {k: torch.ones_like(v) for k, v in SMALL.state_dict().items()} | {key: tensor}


@pytest.mark.parametrize(
    ("value", "rule"),
    [
        (
            all_ones_but("3.bias", torch.ones(3)),
            r"must fit the model: 3.bias is \[3\], the model's \[2\]",
        ),
        (all_ones_but("3.more", torch.ones(3)), "must fit the model: unexpected 3.more$"),
        (models.mlp(4, 2).state_dict(), r"missing 3.weight; missing 3.bias; 1.weight is \[2, 4\]"),
        (all_ones_but("3.bias", torch.ones(2, dtype=torch.complex64)), "3.bias is torch.complex64"),
        (all_ones_but("3.bias", torch.ones(2, device="meta")), "3.bias is not a plain tensor"),
        (all_ones_but("3.bias", torch.ones(2).to_sparse()), "3.bias is not a plain tensor"),
        (nn.Sequential(*[nn.ReLU()] * 14, *models.mlp(4, 3, 3, 3, 2)).state_dict(), "4 more$"),
        ({"model": {}, "epoch": 3}, "must fit the model: missing 1.weight; "),
        ({"model": {}, "net": {}, "epoch": 3}, "'model' is dict; 'net' is dict; 'epoch' is int$"),
        ([1, 2], "must be a state_dict of tensors; got list"),
        (Hostile(), r"more than tensors, a posix.mkdir, .* \(nothing in it was run\)"),
        (SMALL, r"a torch.nn.modules.container.Sequential.*weights_only=False\).state_dict\(\)"),
    ],
)
def test_weights_that_do_not_fit_change_nothing(tmp_path, monkeypatch, value, rule):
    monkeypatch.chdir(tmp_path)
    model = copy.deepcopy(SMALL)
    torch.save(value, "w.pt")
    with pytest.raises(ValueError, match=rule) as caught:
        models.load_weights(model, "w.pt")
    assert str(caught.value).startswith("weights w.pt must ")
    assert equal(model, SMALL)
    assert not os.path.exists("ran")


@pytest.mark.parametrize("kept", [0, 5, 0.5, 0.99])
def test_damaged_weights(tmp_path, kept):
    torch.save(SMALL.state_dict(), tmp_path / "w.pt")
    content = (tmp_path / "w.pt").read_bytes()
    size = int(kept * len(content)) if kept < 1 else kept
    (tmp_path / "w.pt").write_bytes(content[:size])
    words = "cut short" if size > 4 else "empty"  # of 5 bytes nobody can say
    words = "damaged|cut short" if size == 5 else words
    with pytest.raises(ValueError, match=rf"w\.pt must be a state_dict; the file is ({words})"):
        models.load_weights(SMALL, tmp_path / "w.pt")


def test_missing_weights(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nothing\.pt are not there"):
        models.load_weights(SMALL, tmp_path / "nothing.pt")


@pytest.fixture
def nets(own_folder):
    """A current folder with modules of a user's."""
    (own_folder / "my_nets.py").write_text(
        "import torch\n"
        "net = lambda: torch.nn.Linear(2, 3)\n"
        "x = dict\n"
        "size = 3\n"
        "def late():\n    import my_parts\n    return my_parts.net()\n"
        "def fails():\n    raise KeyError('width')\n"
    )
    (own_folder / "my_parts.py").write_text("import torch\nnet = torch.nn.ReLU\n")
    (own_folder / "my_broken.py").write_text("import no_such_package\n")
    (own_folder / "my_typo.py").write_text("def net(:\n")
    return own_folder


def test_factory_from_the_current_folder(nets):
    path = list(sys.path)
    assert isinstance(models.load_factory("my_nets:net"), nn.Linear)
    assert isinstance(models.load_factory("my_nets:late"), nn.ReLU)
    assert sys.path == path
    assert isinstance(models.load_factory("torch.nn:ReLU"), nn.ReLU)


def test_a_mistyped_network_of_the_papers_is_found_by_its_message():
    with pytest.raises(ValueError, match="must have a function seckc; near to it: seck_c, seck"):
        models.load_factory("jacfast.models:seckc")


def test_a_path_that_already_holds_the_folder_keeps_it(nets, monkeypatch):
    monkeypatch.setattr(sys, "path", [*sys.path, str(nets)])
    path = list(sys.path)
    models.load_factory("my_nets:net")
    assert sys.path == path


@pytest.mark.parametrize(
    ("spec", "kind", "rule"),
    [
        ("my_nets:x", TypeError, "must return a torch.nn.Module; got dict"),
        ("my_nets:nett", ValueError, "must have a function nett; near to it: net$"),
        ("my_parts:y", ValueError, "my_parts must have a function y, and has none of a like name"),
        ("my_nets:size", ValueError, "cannot be imported; my_nets must have a function size"),
        ("my_nets:fails", ValueError, r"cannot be made; fails\(\) raised KeyError: 'width'"),
        ("my_absent:net", ValueError, "cannot be imported; ModuleNotFoundError: .*'my_absent'"),
        ("my_broken:net", ValueError, "cannot be imported; ModuleNotFoundError: .*'no_such_pa"),
        ("my_typo:net", ValueError, "cannot be imported; SyntaxError"),
    ],
)
def test_factories_that_give_no_model(nets, spec, kind, rule):
    path = list(sys.path)
    with pytest.raises(kind, match=rule) as caught:
        models.load_factory(spec)
    assert str(caught.value).startswith(f"model {spec!r} ")
    assert sys.path == path


def test_a_file_that_fails_leaves_no_half_of_a_module(own_folder):
    (own_folder / "my_half.py").write_text("made = 1\nraise KeyError('width')\n")
    with pytest.raises(ValueError, match="cannot be imported; KeyError: 'width'"):
        models.load_factory("my_half.py:made")
    assert "my_half" not in sys.modules


@pytest.mark.parametrize("spec", ["", "torch", "torch:", ":net", ".nets:net", "a:b:c"])
def test_malformed_factories(spec):
    with pytest.raises(ValueError, match=r"package.module:factory; got"):
        models.load_factory(spec)


def split_of(*shape: int, classes: int) -> data.Split:
    x, y = torch.ones(2, *shape), torch.zeros(2, dtype=torch.int64)
    return data.Split(x, y, x, y, classes, "ones")


@pytest.mark.parametrize(
    ("model", "rule"),
    [
        (models.mlp(9, 5), r"accept images of shape \[1, 2, 2\]; got RuntimeError: .*mat1"),
        (nn.Conv2d(3, 5, 1), r"accept images of shape \[1, 2, 2\]; got RuntimeError"),
        (models.mlp(4, 3), r"return \[N, K\] logits with K >= 4 classes; got \[1, 3\]"),
        (nn.Conv2d(1, 5, 1), r"return \[N, K\] logits with K >= 4 classes; got \[1, 5, 2, 2\]"),
        (
            models.mlp(4, 5).double(),
            r"accept images of shape \[1, 2, 2\], torch.float32 \(let the factory return one that "
            r"casts them to torch.float64\); got RuntimeError: .*mat1",
        ),
        (nn.Sequential(nn.Flatten(), nn.RNN(4, 5)), "return a tensor of logits, .*; got tuple of"),
    ],
)
def test_a_model_for_another_data_set(model, rule):
    with pytest.raises(ValueError, match=f"model must {rule}"):
        models.check_fits(model, split_of(1, 2, 2, classes=4))


def test_a_model_that_fits_is_left_as_it_was():
    split = split_of(1, 2, 2, classes=4)
    model = nn.Sequential(nn.ReLU(inplace=True), nn.BatchNorm2d(1), models.mlp(4, 6))
    split.test_x.neg_()
    assert models.check_fits(model, split) == 6
    assert bool((split.test_x == -1).all())
    assert model[1].training
    assert int(model[1].num_batches_tracked) == 0


@pytest.mark.parametrize("norm", [nn.BatchNorm1d, nn.BatchNorm2d])
def test_batch_norm_that_couples_the_images_is_refused(norm):
    layer, split = norm(6, track_running_stats=False), split_of(1, 2, 2, classes=4)
    layers = [models.mlp(4, 6), layer] if norm is nn.BatchNorm1d else [layer, models.mlp(4, 6)]
    words = r"model must keep images apart; its batch-norm .* take another normalisation$"
    with pytest.raises(ValueError, match=words):
        models.check_fits(nn.Sequential(*layers), split)


def test_what_the_model_says_of_an_image_is_passed_on():
    split = split_of(1, 2, 2, classes=4)
    model = nn.Sequential(models.mlp(9, 6), nn.BatchNorm1d(6))
    with pytest.raises(ValueError, match=r"shapes cannot be multiplied \(1x4 and 9x6\)$"):
        models.check_fits(model, split)
