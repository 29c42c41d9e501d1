"""The package at the prompt: its names, and what importing it costs."""

import ast
import copy
import importlib
import pickle
import pkgutil
import resource
import subprocess
import sys
from pathlib import Path

import pytest

import jacfast

PACKAGES = (
    "attacks",
    "data",
    "evaluation",
    "models",
    "ops",
    "penalties",
    "plots",
    "robustness",
    "training",
)


def run(code: str) -> subprocess.CompletedProcess:
    """Run Python in a process of its own."""
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)


def test_dir_is_what_is_public_before_and_after_everything_is_imported():
    code = """
import jacfast
before = dir(jacfast)
import jacfast.cli, jacfast.step, jacfast.rows, jacfast.reproduce
values = [getattr(jacfast, name) for name in jacfast.__all__]
assert dir(jacfast) == before == sorted(jacfast.__all__)
print(*before)
"""
    names = run(code).stdout.split()
    assert {"deepfool", "jacobian", "Frobenius", "attacks", "__version__"} <= {*names}
    assert not {"Any", "TYPE_CHECKING", "importlib", "interrupt", "cli", "step"} & {*names}


def test_a_type_checker_sees_the_same_names():
    tree = ast.parse(Path(jacfast.__file__).read_text())
    block = next(node for node in tree.body if isinstance(node, ast.If))
    assert ast.unparse(block.test) == "TYPE_CHECKING"
    seen = [name for node in block.body for name in node.names]
    assert all(name.asname == name.name for name in seen)  # "as" is what exports a name
    assert {name.name for name in seen} | {"__version__"} == {*jacfast.__all__}


def test_a_step_imports_no_attacks():
    code = "import sys, jacfast.step; print(any('jacfast.attacks' in name for name in sys.modules))"
    assert run(code).stdout == "False\n"


@pytest.mark.parametrize("name", PACKAGES)
def test_dir_of_each_package_is_what_it_exports(name):
    package = importlib.import_module(f"jacfast.{name}")
    assert dir(package) == sorted(package.__all__)
    assert all(hasattr(package, each) for each in package.__all__)


def test_no_module_takes_the_place_of_a_name():
    """The import of jacfast/jacobian.py would put the module where the function is."""
    modules = {module.name for module in pkgutil.iter_modules(jacfast.__path__)}
    functions = {name for name in jacfast.__all__ if callable(getattr(jacfast, name))}
    assert not modules & functions


@pytest.mark.parametrize("name", sorted(jacfast.__all__))
def test_names_are_those_of_the_modules_and_pickle(name):
    value = getattr(jacfast, name)
    assert vars(jacfast)[name] is value  # looked up once
    if callable(value):
        assert pickle.loads(pickle.dumps(value)) is value
        assert copy.deepcopy(value) is value


def test_a_name_that_is_not_there():
    with pytest.raises(AttributeError, match="module 'jacfast' has no attribute 'depfool'"):
        jacfast.depfool  # noqa: B018
    assert not hasattr(jacfast, "not a name")
    assert jacfast.calling.quiet  # of a module that is not public


@pytest.mark.parametrize("order", ["import jacfast, torch", "import torch, jacfast"])
def test_the_ops_are_there_in_either_order(order):
    code = f"{order}\nprint(torch.ops.jacfast.row_norm(torch.ones(2, 3), 'sumsq')[0].tolist())"
    if not jacfast.ops.lives.BUILT:
        pytest.skip("the extension is not built: there are no ops")
    assert run(code).stdout == "[3.0, 3.0]\n"


@pytest.mark.parametrize("words", [["--help"], ["--version"], ["bogus"], []])
def test_the_command_line_answers_without_torch(words):
    code = f"""
import sys
from jacfast import cli
try:
    cli.main({words})
except SystemExit:
    pass
assert not [name for name in sys.modules if name.split(".")[0] in ("torch", "numpy", "matplotlib")]
"""
    run(code)


def test_help_takes_less_than_0_4_s_of_processor_time():
    """The least of three: what else runs on the machine makes it more."""
    costs = []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = subprocess.run([sys.executable, "-m", "jacfast", "--help"], capture_output=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        assert b"harden a trained classifier" in done.stdout
        costs.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert min(costs) < 0.4
