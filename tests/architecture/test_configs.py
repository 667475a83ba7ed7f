"""Rules of the house that no linter knows (DESIGN 3, 10)."""

import ast
import re
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
MODULES = sorted((ROOT / "proxy").rglob("*.py"))
PACKAGES = [path for path in MODULES if path.name == "__init__.py"]


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", PACKAGES, ids=name_of)
def test_a_package_is_a_docstring_and_nothing_else(path):
    """Imports there are where most import cycles come from."""
    [statement] = ast.parse(path.read_text(encoding="utf-8")).body
    assert isinstance(statement, ast.Expr)
    assert isinstance(statement.value.value, str)


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_no_module_changes_globals(path):
    """One owner per piece of mutable state; `global` has none."""
    assert not [node for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, ast.Global)]


def test_no_name_says_nothing():
    """Packages are responsibilities, modules are things (DESIGN 2)."""
    empty = re.compile(r"utils?|helpers?|common|misc|managers?|handlers?|.*_?v\d+")
    assert [name_of(path) for path in MODULES if empty.fullmatch(path.stem) or empty.fullmatch(path.parent.name)] == []


def test_unit_tests_mirror_the_source():
    """`tests/unit/x/test_y.py` is about `proxy/x/y.py`; recordings are about all dialects."""
    unit = ROOT / "tests" / "unit"
    for path in sorted(unit.rglob("test_*.py")):
        source = ROOT / "proxy" / path.relative_to(unit).with_name(path.name.removeprefix("test_"))
        assert source.exists() or path.name == "test_recorded.py", name_of(path)


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.yaml")), ids=name_of)
def test_every_config_names_its_schema(path):
    """Editors then know each key."""
    first = path.read_text(encoding="utf-8").splitlines()[0]
    name = path.stem if (path.parent / f"{path.stem}.schema.json").exists() else "tidegate"
    assert first == f"# yaml-language-server: $schema=./{name}.schema.json"
    assert isinstance(yaml.safe_load(path.read_text(encoding="utf-8")), dict)
