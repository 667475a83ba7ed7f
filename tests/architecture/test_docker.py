"""The Dockerfile: what it copies is let through by `.dockerignore`, and exists."""

import re
from pathlib import Path

_ROOT = Path(__file__).parents[2]


def test_everything_that_is_copied_exists_and_is_let_through():
    text = (_ROOT / "Dockerfile").read_text(encoding="utf-8")
    sources = [
        name.removeprefix("./")
        for line in re.findall(r"^COPY (?!--)(.+)$", text, re.MULTILINE)
        for name in line.split()[:-1]
    ]
    let_through = {
        line[1:] for line in (_ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines() if line.startswith("!")
    }
    assert sources
    assert [name for name in sources if not (_ROOT / name).exists() or name not in let_through] == []
