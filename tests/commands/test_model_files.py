"""What a user's model file does beside making a model: it ends the process, prints, or reads."""

import json
import sys

import pytest
import torch
from torch import nn

from jacfast import cli, models
from tests.data.files import write_mnist

NET = "from torch import nn\nnet = lambda: nn.Sequential(nn.Flatten(), nn.Linear(784, 10))\n"
ENDS = "import sys\nmain = lambda: 0\nsys.exit(main())\n"
READS = (
    "import argparse, sys\nparser = argparse.ArgumentParser()\n"
    "parser.add_argument('--width', type=int, default=10)\nargs = parser.parse_args()\n"
)
NEEDS = READS.replace("default=10", "required=True")
FORWARD = """
from torch import nn
class Ends(nn.Sequential):
    def forward(self, x):
        raise SystemExit(4)
net = lambda: Ends(nn.Flatten(), nn.Linear(784, 10))
"""
LATER = FORWARD.replace("raise", "if len(x) == 7: raise").replace(
    "SystemExit(4)", "SystemExit(4)\n        return super().forward(x)"
)
STATE = """
from torch import nn
class Ends(nn.Sequential):
    def get_extra_state(self):
        return 1
    def set_extra_state(self, state):
        raise SystemExit(5)
net = lambda: Ends(nn.Flatten(), nn.Linear(784, 10))
"""
PRINTS = """
from sys import stdout
from torch import nn
print("at import")
class Prints(nn.Sequential):
    def forward(self, x):
        print("in forward")
        stdout.write("a log")
        return super().forward(x)
def net():
    print("in the factory")
    return Prints(nn.Flatten(), nn.Linear(784, 10))
"""
GUARD = "must not end the process: put what it runs under if __name__ == '__main__'"


@pytest.fixture
def folder(own_folder):
    write_mnist(own_folder / "data", train=20, test=20)
    weights = nn.Sequential(nn.Flatten(), nn.Linear(784, 10)).state_dict()
    torch.save(weights, own_folder / "w.pt")
    torch.save({**weights, "_extra_state": 1}, own_folder / "extra.pt")
    return own_folder


def commands(weights="w.pt"):
    trained = ["--model", "my_net.py:net", "--weights", weights, "--data", "data", "--quiet"]
    few = ["--samples", "7", "--batch-size", "7"]
    step = ["--seconds", "0", "--against", "one-vector"]
    return {
        "attack": ["attack", "fgsm", "--eps", "0.1", *trained, *few, "--out", "a"],
        "report": ["report", *trained, *few, "--budget", "10", "--steps", "2", "--out", "r"],
        "harden": ["harden", *trained, "--epochs", "1", "--eval-samples", "7", "--out", "h"],
        "bench": ["bench", *trained[:2], "--quiet", "--input", "784", "--batch", "7", *step],
    }


@pytest.mark.parametrize("name", commands())
@pytest.mark.parametrize(
    ("text", "words"),
    [
        (NET + ENDS, f"cannot be imported; SystemExit: 0 (it {GUARD}"),
        (NET + NEEDS, f"cannot be imported; SystemExit: 2 (it {GUARD}"),
        ("def net():\n    raise SystemExit(3)\n", "cannot be made; net() raised SystemExit: 3"),
    ],
)
def test_a_file_that_ends_the_process_is_an_error(folder, name, text, words, capsys):
    (folder / "my_net.py").write_text(text)
    assert cli.main(commands()[name]) == 2
    said = capsys.readouterr()
    assert f"jacfast: --model 'my_net.py:net' {words}" in said.err
    assert said.out == ""
    assert {path.name for path in folder.iterdir()} <= {
        "data", "w.pt", "extra.pt", "my_net.py", "__pycache__"
    }  # fmt: skip


@pytest.mark.parametrize("name", commands())
def test_a_model_that_ends_the_process_is_an_error(folder, name, capsys):
    (folder / "my_net.py").write_text(FORWARD)
    assert cli.main(commands()[name]) == 2
    said = capsys.readouterr().err
    assert said.startswith("jacfast: --model must accept")
    assert "SystemExit: 4" in said


@pytest.mark.parametrize("name", ["attack", "report", "harden"])
def test_so_is_one_that_does_it_late(folder, name, capsys):
    (folder / "my_net.py").write_text(LATER)
    assert cli.main(commands()[name]) == 2
    assert "jacfast: the model's code ended the process; SystemExit: 4" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["attack", "report", "harden"])
def test_so_is_one_that_does_it_when_it_gets_its_weights(folder, name, capsys):
    (folder / "my_net.py").write_text(STATE)
    assert cli.main(commands("extra.pt")[name]) == 2
    assert "extra.pt must fit the model: SystemExit: 5" in capsys.readouterr().err


@pytest.mark.parametrize("where", ["import", "factory", "module"])
def test_a_file_reads_no_arguments_of_the_command(folder, where, monkeypatch, capsys):
    indented = "    " + READS.replace("\n", "\n    ")
    net = "net = lambda: nn.Linear(784, args.width)\nprint(sys.argv)\n"
    text = f"from torch import nn\n{READS}{net}"
    if where == "factory":
        text = f"from torch import nn\ndef net():\n{indented}print(sys.argv)\n"
        text += "    return nn.Linear(784, args.width)\n"
    (folder / "my_net.py").write_text(text)
    before = ["jacfast", "bench", "--model", "my_net.py:net"]
    monkeypatch.setattr(sys, "argv", before)
    spec = "my_net:net" if where == "module" else "my_net.py:net"
    assert models.load_factory(spec).out_features == 10
    assert capsys.readouterr().out == ("['my_net']\n" if where == "module" else "['my_net.py']\n")
    assert sys.argv is before
    (folder / "my_broken.py").write_text("import sys\nsys.argv.append('x')\nraise KeyError\n")
    with pytest.raises(ValueError, match="KeyError"):
        models.load_factory("my_broken.py:net")
    assert sys.argv is before
    assert before == ["jacfast", "bench", "--model", "my_net.py:net"]


@pytest.mark.parametrize("name", ["attack", "report", "harden"])
def test_json_is_all_of_the_output_whatever_a_model_prints(folder, name, capsys):
    (folder / "my_net.py").write_text(PRINTS)
    assert cli.main([*commands()[name], "--json"]) == 0
    said = capsys.readouterr()
    assert isinstance(json.loads(said.out), dict)
    for words in ("at import", "in the factory", "in forward", "a log"):
        assert words in said.err


def test_the_list_of_tables_as_json(capsys):
    assert cli.main(["reproduce", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["jg-table3"].startswith("Jakubovitz & Giryes")
