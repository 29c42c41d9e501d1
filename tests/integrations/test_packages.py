"""The integrations where the package that they integrate with is not there, or the older one is."""

import importlib
import sys

import pytest


@pytest.mark.parametrize(
    ("name", "packages"),
    [
        ("lightning", ("lightning", "lightning.pytorch", "pytorch_lightning")),
        ("transformers", ("transformers",)),
    ],
)
def test_without_its_package_the_error_says_what_to_install(monkeypatch, name, packages):
    for package in packages:
        monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.delitem(sys.modules, f"jacfast.integrations.{name}", raising=False)
    with pytest.raises(ImportError, match=rf"run pip install 'jacfast\[{name}\]'$"):
        importlib.import_module(f"jacfast.integrations.{name}")


def test_the_older_package_of_lightning_will_do(monkeypatch):
    older = pytest.importorskip("pytorch_lightning")
    name = "jacfast.integrations.lightning"
    importlib.import_module(name)  # which is put back afterwards
    monkeypatch.setitem(sys.modules, "lightning", None)
    monkeypatch.setitem(sys.modules, "lightning.pytorch", None)
    monkeypatch.delitem(sys.modules, name)
    assert issubclass(importlib.import_module(name).JacobianPenalty, older.Callback)
