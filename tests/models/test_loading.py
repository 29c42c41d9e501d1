"""A user's model, by the name of what makes it."""

import sys

import pytest
from torch import nn

from jacfast import models


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
