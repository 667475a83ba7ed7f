"""What a docstring names exists: arguments and attributes, and the modules that a package lists."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

_ROOT = Path(__file__).parents[2]
_MODULES = sorted((_ROOT / "proxy").rglob("*.py"))
_Documented = ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


@pytest.mark.parametrize("path", _MODULES, ids=lambda path: str(path.relative_to(_ROOT / "proxy" / "tidegate")))
def test_every_documented_name_exists(path):
    """A rename that forgets the docstring fails here."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    documented = [node for node in ast.walk(tree) if isinstance(node, _Documented)]
    unknown = [(node.name, set(_documented(node)) - _names(node)) for node in documented]
    assert [(name, names) for name, names in unknown if names] == []


@pytest.mark.parametrize(
    "path", [path for path in _MODULES if path.name == "__init__.py"], ids=lambda path: path.parent.name
)
def test_every_module_that_a_package_lists_exists(path):
    """A package lists its modules as `    name    what it does`."""
    docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    names = re.findall(r"^ {4,8}([a-z_][a-z_.]*)(?: {2,}|$)", docstring, re.MULTILINE)
    folders = (path.parent, _ROOT / "proxy" / "tidegate")
    paths = {name: [folder / name.replace(".", "/") for folder in folders] for name in names}
    assert [
        name for name in names if not any(each.is_dir() or each.with_suffix(".py").exists() for each in paths[name])
    ] == []


def _documented(node: _Documented) -> Iterator[str]:
    for section in re.findall(
        r"^(?:Args|Attributes):\n((?:    .*\n?|\n)+)", ast.get_docstring(node) or "", re.MULTILINE
    ):
        for names in re.findall(r"^    (\w+(?:, \w+)*): ", section, re.MULTILINE):
            yield from names.split(", ")


def _names(node: _Documented) -> set[str]:
    """The parameters of a function; of a class its fields, its methods, what `__init__` takes and what methods set."""
    if not isinstance(node, ast.ClassDef):
        return {argument.arg for argument in ast.walk(node.args) if isinstance(argument, ast.arg)}
    names = set()
    for member in node.body:
        match member:
            case ast.AnnAssign(target=ast.Name(id=name)) | ast.Assign(targets=[ast.Name(id=name)]):
                names.add(name)
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
                names |= {name, *_set_by(member)}
                names |= _names(member) if name == "__init__" else set()
    return names


def _set_by(method: ast.FunctionDef | ast.AsyncFunctionDef) -> Iterator[str]:
    for part in ast.walk(method):
        match part:
            case ast.Attribute(value=ast.Name(id="self"), attr=name, ctx=ast.Store()):
                yield name
