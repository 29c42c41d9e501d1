"""jacfast bench: what it reads, what it writes, and what it says."""

import argparse
import json
import sys
import types

import pytest
import torch
from torch import nn

import jacfast
from jacfast import cli, models
from jacfast.commands.penalty import penalty
from jacfast.models.zoo import input_shape
from tests import public
from tests.timing.benching import interrupt_turn, shorten

NET = "from torch import nn\nnet = lambda: nn.Sequential(nn.Flatten(), nn.Linear(8, 3))\n"


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    shorten(monkeypatch)


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """Run the command on a model of the current folder; return status, output and errors."""
    (tmp_path / "my_bench_net.py").write_text(NET)
    monkeypatch.chdir(tmp_path)

    def command(*words: str, model: str = "my_bench_net:net"):
        options = ["--model", model, "--seconds", "0", "--quiet", *words]
        if "--against" not in words:
            options += ["--against", "one-vector"]
        status = cli.main(["bench", *options])
        return status, *capsys.readouterr()

    yield command
    for name in [name for name in sys.modules if "my_bench_net" in name]:
        del sys.modules[name]


@pytest.mark.parametrize(
    ("text", "want"),
    [
        ("Frobenius(n=1)", jacfast.Frobenius(n=1)),
        (" Frobenius('exact')", jacfast.Frobenius("exact")),
        ("InputGradient()", jacfast.InputGradient()),
        ("InputGradient", jacfast.InputGradient()),
        ("CrossLipschitz(n=2)", jacfast.CrossLipschitz(2)),
        ("DecisionFunction('l2')", jacfast.DecisionFunction("l2")),
    ],
)
def test_penalties_as_they_are_written(text, want):
    assert penalty(text) == want


@pytest.mark.parametrize("name", public.PENALTIES)
def test_every_penalty_can_be_named(name):
    assert penalty(name) == getattr(jacfast, name)()


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("__import__('os').system('touch here')", "must be one of .*Frobenius"),
        ("Frobenius(n=__import__('os').getpid())", "must have numbers and words as arguments"),
        ("Frobenius(n=(lambda: 1)())", "must have numbers and words"),
        ("Frobenius(**{'n': 1})", "must be one of"),
        ("Frobenius(*[1])", "must have numbers and words"),
        ("Frobenius(n=1).n", "must be one of"),
        ("jacfast.Frobenius(1)", "must be one of"),
        ("Penalty()", "must be one of"),
        ("JacobianReg(1)", "must be one of"),
        ("inspect", "must be one of"),
        ("Frobenius(n=1); 1", "must be one of"),
        ("(" * 5000, "must be one of"),
        ("", "must be one of"),
        ("Frobenius(n=0)", "must be possible: n must be >= 1"),
        ("Frobenius(m=1)", "must be possible: got an unexpected keyword argument 'm'"),
    ],
)
def test_nothing_else_is_read(text, rule):
    with pytest.raises(argparse.ArgumentTypeError, match=rule) as caught:
        penalty(text)
    assert repr(text) in str(caught.value)


def test_table_and_json(run, tmp_path):
    file = tmp_path / "figures.json"
    status, out, _ = run("--input", "2,2,2", "--batch", "4", "--json", str(file))
    assert status == 0
    assert "model my_bench_net:net, parameters 27, mode eval, x [4, 2, 2, 2]" in out
    assert "best for Frobenius(n=1): " in out
    found = json.loads(file.read_text())
    assert found["about"]["model"] == "my_bench_net:net"
    assert found["environment"]["torch"] == torch.__version__
    assert not found["interrupted"]
    assert len(found["rows"]) == 9
    assert "written: " in out


def test_mode_penalty_and_a_file(run):
    words = ("--input", "8", "--train", "--penalty", "InputGradient()", "--batch", "4")
    status, out, _ = run(*words, model="my_bench_net.py:net")
    assert status == 0
    assert "mode training" in out
    assert "R = InputGradient()" in out
    assert "left out, they compute another penalty: one vector by autograd" in out


def test_seconds_threads_and_classes_are_those_that_are_asked_for(run, monkeypatch):
    seen = {}
    monkeypatch.setattr("jacfast.timing.benchmark.fill", lambda *_, **given: seen.update(given))
    monkeypatch.setattr(torch, "set_num_threads", lambda count: seen.update(threads=count))
    words = ("--input", "8", "--seconds", "1.5", "--threads", "3", "--classes", "4")
    assert run(*words, "--against", "loop")[0] == 0
    assert seen == {"seconds": 1.5, "threads": 3, "classes": 4, "against": ("loop",)}


def test_an_interrupt_prints_what_there_is(run, monkeypatch, tmp_path):
    interrupt_turn(monkeypatch, 3)
    file = tmp_path / "figures.json"
    status, out, err = run("--input", "8", "--json", str(file))
    assert status == 130
    assert "interrupted" in err
    assert "0 rounds of turns were finished; interrupted: rows without a spread are single" in out
    assert "one vector by autograd" in out
    found = json.loads(file.read_text())
    assert found["interrupted"]
    assert [row["spread"] is not None for row in found["rows"][:3]] == [True, True, False]
    assert all(row["seconds"] for row in found["rows"][:3])


@pytest.mark.parametrize(
    ("words", "model", "rule"),
    [
        ((), "my_bench_net:net", "--input must be given for a model of your own"),
        (("--input", "7"), "my_bench_net:net", "--model must accept x of shape [32, 7]"),
        (("--input", "8", "--classes", "4"), "my_bench_net:net", "--classes must be the number of"),
        (("--input", "8"), "my_bench_net:nett", "must have a function nett; near to it: net"),
        (("--input", "8"), "my_absent.py:net", "FileNotFoundError"),
        (("--input", "8"), "no_such_model", "--model must be package.module:factory; got 'no_such"),
        ((), "timm:no", "needs the package timm, which cannot be imported"),
    ],
)
def test_what_cannot_be_is_said_in_words(run, monkeypatch, words, model, rule):
    monkeypatch.setitem(sys.modules, "timm", None)
    status, out, err = run(*words, model=model)
    assert status == 2
    assert not out
    assert rule in err


@pytest.mark.parametrize(
    ("words", "rule"),
    [
        (("--against", "loops"), "must be some of one-vector,"),
        (("--penalty", "Frobenious()"), "must be one of ColumnSumL1, "),
        (("--input", "3,x"), "must be sizes such as 3,224,224; got '3,x'"),
        (("--json", "no/such/folder.json"), "must be a file in a folder that is there"),
        (("--json", "/proc/f.json"), "must be where files can be made; got /proc/f.json (/proc"),
        (("--batch", "0"), "must be >= 1"),
        (("--threads", str(2**31)), "--threads: must be <= 2^31 - 1; got 2147483648"),
    ],
)
def test_usage(words, rule, capsys):
    with pytest.raises(SystemExit) as caught:
        cli.main(["bench", "--model", "seck_c", *words])
    assert caught.value.code == 2
    assert rule in capsys.readouterr().err


def test_a_name_a_model_and_the_shapes_they_are_made_for(run, tmp_path):
    assert models.load_factory("seck_c")[1].in_features == 784
    (tmp_path / "my_bench_net_2.py").write_text("from torch import nn\nmade = nn.Linear(2, 2)\n")
    assert isinstance(models.load_factory("my_bench_net_2:made"), nn.Linear)
    with pytest.raises(ValueError, match=r"package.module:factory; got 'seck_d' \(or file.py"):
        models.load_factory("seck_d")
    linear = nn.Linear(2, 2)
    for spec, shape in (
        ("seck_a", (1, 28, 28)),
        ("jacfast.models:cifar_cnn", (3, 32, 32)),
        ("torchvision:resnet18", (3, 224, 224)),
        ("torchvision:inception_v3", (3, 299, 299)),
        ("my_nets:net", None),
    ):
        assert input_shape(spec, linear) == shape
    linear.default_cfg = {"input_size": (3, 96, 96)}
    assert input_shape("timm:any", linear) == (3, 96, 96)
    linear.default_cfg, linear.config = None, types.SimpleNamespace(image_size=64, num_channels=1)
    assert input_shape("transformers:Any", linear) == (1, 64, 64)


def test_two_files_of_one_name(run, tmp_path):
    for folder, size in (("a", 2), ("b", 3)):
        (tmp_path / folder).mkdir()
        text = f"from torch import nn\nimport my_bench_net\nnet = lambda: nn.Linear({size}, 2)\n"
        (tmp_path / folder / "my_bench_net_3.py").write_text(text)
    for folder, size in (("a", 2), ("b", 3)):
        found = models.load_factory(f"{folder}/my_bench_net_3.py:net")
        assert found.in_features == size


def test_a_zoo_gets_the_number_of_classes(monkeypatch):
    asked = {}

    def create_model(name, **options):
        asked.update(options, name=name)
        return nn.Linear(2, options["num_classes"])

    timm = types.ModuleType("timm")
    timm.create_model = create_model
    monkeypatch.setitem(sys.modules, "timm", timm)
    assert models.load_factory("timm:vit", 7).out_features == 7
    assert asked == {"name": "vit", "pretrained": False, "num_classes": 7}
    with pytest.raises(ValueError, match=r"'timm:vit' cannot be made; timm raised KeyError"):
        models.load_factory("timm:vit")


def test_a_vision_model_of_transformers():
    transformers = pytest.importorskip("transformers")

    class Tiny(transformers.ViTConfig):
        def __init__(self, **options):
            super().__init__(hidden_size=8, num_hidden_layers=1, num_attention_heads=1, **options)

    kind, before = transformers.ViTForImageClassification, None
    before = kind.config_class
    try:
        kind.config_class = Tiny
        model = models.load_factory("transformers:ViTForImageClassification", 4)
    finally:
        kind.config_class = before
    assert model.classifier.out_features == 4
    assert input_shape("transformers:ViTForImageClassification", model) == (3, 224, 224)
    with pytest.raises(ValueError, match="there is no model ViTForNothing"):
        models.load_factory("transformers:ViTForNothing")


EXPORTED = """
import torch
from torch import nn

def net():
    return torch.export.export(nn.Linear(4, 3), (torch.rand(32, 4),)).module()
"""


@pytest.mark.parametrize("words", [(), ("--train",)])
def test_an_exported_module(run, tmp_path, words):
    """It takes a batch of 32 alone, and refuses to be put in a mode."""
    (tmp_path / "my_bench_net_4.py").write_text(EXPORTED)
    status, out, err = run("--input", "4", *words, model="my_bench_net_4.py:net")
    assert status == 0, err
    assert "best for Frobenius(n=1): " in out
    status, out, err = run("--input", "4", "--batch", "3", *words, model="my_bench_net_4.py:net")
    assert (status, out) == (2, "")
    assert "--model must accept x of shape [3, 4]" in err
