"""Draws the packages and their imports: the picture in `docs/architecture.md`, as a Mermaid flowchart.

    uv run python -m tests.architecture.picture      # writes it anew

A box is a package, or a module at the top level, with the first sentence of its docstring. The rows are the layers of
`pyproject.toml`. An arrow is an import; it is left out where a longer path of arrows says the same.
"""

import ast
import re
import tomllib
from collections.abc import Iterator, Mapping
from collections.abc import Set as AbstractSet
from pathlib import Path

import grimp

_ROOT = Path(__file__).parents[2]
_PACKAGE = _ROOT / "proxy" / "tidegate"
PAGE = _ROOT / "docs" / "architecture.md"
_BEGIN, _END = "<!-- drawn by tests/architecture/picture.py -->\n", "<!-- end of the picture -->\n"
_HIDDEN = {"__main__"}


def draw() -> str:
    """The flowchart, in a fenced block."""
    imports = _imports()
    lines = ["```mermaid", "flowchart TD"]
    for number, names in enumerate(_layers(imports)):
        lines.append(f'  subgraph layer{number} [" "]')
        lines += [f'    {name}["<b>{name}</b><br/>{_summary(name)}"]' for name in names]
        lines.append("  end")
    lines += [
        f"  {name} --> {other}" for name, others in imports.items() for other in sorted(_needed(name, others, imports))
    ]
    return "\n".join([*lines, "```", ""])


def page() -> str:
    """The whole page, with the picture as it is now."""
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(_BEGIN)
    return before + _BEGIN + draw() + _END + rest.partition(_END)[2]


def _imports() -> Mapping[str, AbstractSet[str]]:
    """What each package or module at the top level imports, by its name."""
    graph = grimp.build_graph("tidegate")
    names = sorted(child.partition(".")[2] for child in graph.find_children("tidegate"))
    names = [name for name in names if name not in _HIDDEN]
    return {
        name: {
            other
            for other in names
            if other != name
            and graph.direct_import_exists(importer=f"tidegate.{name}", imported=f"tidegate.{other}", as_packages=True)
        }
        for name in names
    }


def _layers(imports: Mapping[str, AbstractSet[str]]) -> Iterator[list[str]]:
    """The layers from top to bottom, without what does not exist yet."""
    contracts = tomllib.loads((_ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"][
        "contracts"
    ]
    for layer in next(contract for contract in contracts if contract["type"] == "layers")["layers"]:
        if names := [name for name in re.findall(r"\w+", layer) if name in imports]:
            yield names


def _needed(name: str, others: AbstractSet[str], imports: Mapping[str, AbstractSet[str]]) -> AbstractSet[str]:
    """Those of `others` that are not reached through another one of them."""
    return {other for other in others if not any(other in _reached(via, imports) for via in others - {other})}


def _reached(name: str, imports: Mapping[str, AbstractSet[str]]) -> AbstractSet[str]:
    return set(imports[name]).union(*(_reached(other, imports) for other in imports[name]))


def _summary(name: str) -> str:
    file = _PACKAGE / name / "__init__.py" if (_PACKAGE / name).is_dir() else _PACKAGE / f"{name}.py"
    docstring = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or ""
    return docstring.split("\n\n")[0].replace("\n", " ").replace('"', "'").replace("`", "").rstrip(".")


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
