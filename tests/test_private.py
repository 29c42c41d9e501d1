"""The private names of PyTorch that the package uses are listed, and no others."""

import ast
import re
from pathlib import Path

import jacfast
from tests.private_names import NAMES, NODES

PACKAGE = Path(jacfast.__file__).parent
MODULES = {
    ".".join(path.relative_to(PACKAGE).with_suffix("").parts): ast.parse(path.read_text())
    for path in sorted(PACKAGE.rglob("*.py"))
    if "adapters" not in path.parts  # of other toolboxes
}
PRIVATE = re.compile(r"_[a-z]\w*$")
NODE = re.compile(r"Backward\d*$|^torch::autograd::|^CppNode$")
# Of the standard library, of numpy in pickles of CIFAR, and of the extension.
OTHERS = {"_replace", "_asdict", "_fields", "_exit", "_getframe", "_codecs", "_reconstruct", "_C"}


def own(tree: ast.AST) -> set[str]:
    """Return the names of methods and attributes that a module gives to something itself."""
    names = {n.attr for n in ast.walk(tree) if isinstance(n, ast.Attribute) and storing(n)}
    for body in (n.body for n in ast.walk(tree) if isinstance(n, ast.ClassDef)):
        names |= {n.name for n in body if isinstance(n, ast.FunctionDef)}
        names |= {n.target.id for n in body if isinstance(n, ast.AnnAssign)}
    return names


def storing(node: ast.Attribute) -> bool:
    return isinstance(node.ctx, ast.Store)


def used(tree: ast.AST) -> set[str]:
    """Return the private names that a module takes from elsewhere."""
    names, own_here = set(), own(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            inherited = ast.unparse(node.value) in ("self", "type(self)")  # from another module
            names |= {node.attr} - (OWN if inherited else own_here)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            names.add(node.value)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("torch"):
            names |= {*node.module.split("."), *(alias.name for alias in node.names)}
    return {name for name in names if PRIVATE.match(name)} - OTHERS


OWN = set[str]().union(*map(own, MODULES.values()))


def strings(tree: ast.AST) -> set[str]:
    return {
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }


def asked(tree: ast.AST) -> set[str]:
    """Return the strings that look like names of nodes, or are compared with one."""
    compared = {
        string
        for node in ast.walk(tree)
        if isinstance(node, ast.Compare) and ".name()" in ast.unparse(node)
        for string in strings(node)
    }
    return compared | {string for string in strings(tree) if NODE.search(string)}


def listed(name: str) -> set[str]:
    return {part for part in name.split(".") if PRIVATE.match(part)} - OTHERS


def test_every_private_name_is_listed_where_it_is_used():
    found = {module: used(tree) for module, tree in MODULES.items()}
    want: dict[str, set[str]] = {module: set() for module in MODULES}
    for name, use in NAMES.items():
        for module in use.where.split():
            want[module] |= listed(name)
    assert {m: names for m, names in found.items() if names} == {
        m: names for m, names in want.items() if names
    }


def test_every_name_of_a_node_is_listed_where_it_is_used():
    for module, tree in MODULES.items():
        missing = {string for string in asked(tree) if string not in NODES} - {"Backward"}
        assert not missing, module
    for name, use in NODES.items():
        for module in use.where.split():
            assert name in strings(MODULES[module]), f"{name} is not in {module}"
