"""The pages for newcomers name files and functions that exist, and the picture is current."""

import re
from pathlib import Path

import pytest

from tests.architecture import picture

_ROOT = Path(__file__).parents[2]
_PAGES = [_ROOT / ".github" / "CONTRIBUTING.md", picture.PAGE, _ROOT / "README.md"]
_SOURCES = (_ROOT, _ROOT / "proxy" / "tidegate")
_STANDS_FOR = {"DIALECT": "deepseek", "TARGET": "stream"}  # a name in capitals stands for any of its kind
_PATH = re.compile(r"[\w.-]+(?:/[\w.-]*)+|[\w-]+\.(?:py|toml|lock)")


def _rows() -> list[str]:
    text = _PAGES[0].read_text(encoding="utf-8")
    table = text[text.index("| to add | touch |") :].partition("\n\n")[0]
    return table.splitlines()[2:]


def _find(name: str) -> list[Path]:
    """The files that a path in a page means."""
    for word, example in _STANDS_FOR.items():
        name = name.replace(word, example)
    return [source / name for source in _SOURCES if (source / name).exists()]


def _paths(text: str) -> list[str]:
    """What looks like a path of the project, in backticks."""
    quoted = re.findall(r"`([^`\n]+)`", text)
    return [name for name in quoted if _PATH.fullmatch(name) and not name.startswith(("/", "org/"))]


@pytest.mark.parametrize("row", _rows(), ids=lambda row: row.split("|")[1].strip())
def test_each_row_of_what_to_touch_leads_to_a_file_and_to_what_is_named_in_it(row):
    """`path` (`name`): the file exists, and the name is defined in it; `Class.method` by its last part."""
    assert _paths(row)
    assert [name for name in _paths(row) if not _find(name)] == []
    for path, name in re.findall(r"`([^`]+)` \(`([\w.]+)`\)", row):
        [file] = _find(path)
        part = re.escape(name.rpartition(".")[2])
        assert re.search(
            rf"^\s*(?:(?:async )?def {part}\(|class {part}\b|{part}\b.* = )", file.read_text("utf-8"), re.MULTILINE
        ), name


@pytest.mark.parametrize("page", _PAGES, ids=lambda page: page.name)
def test_every_path_in_a_page_exists(page):
    text = page.read_text(encoding="utf-8")
    links = [link for link in re.findall(r"\]\(([^)#\s]+)\)", text) if "://" not in link]
    assert [link for link in links if not (page.parent / link).exists()] == []
    names = [name for name in _paths(text) if page == picture.PAGE or name.startswith(("proxy/", "tests/", "configs/"))]
    assert [name for name in names if not _find(name)] == []


def test_the_picture_is_current():
    """Where this fails: `uv run python -m tests.architecture.picture`."""
    assert picture.page() == picture.PAGE.read_text(encoding="utf-8")
