"""The lock that the image installs."""

import re
import tomllib
from pathlib import Path

_ROOT = Path(__file__).parents[2]
_LOCK = (_ROOT / "requirements.lock").read_text(encoding="utf-8")
_PROJECT = tomllib.loads((_ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def test_the_lock_names_no_address():
    assert "://" not in _LOCK
    assert "index-url" not in _LOCK


def test_everything_in_the_lock_has_a_hash():
    entries = re.split(r"\n(?=[a-z0-9])", re.sub(r"^ *#.*\n", "", _LOCK, flags=re.MULTILINE).strip())
    assert len(entries) > 20
    assert all("--hash=sha256:" in entry for entry in entries)


def test_what_the_project_asks_for_is_in_the_lock():
    asked = [
        *_PROJECT["project"]["dependencies"],
        *_PROJECT["project"]["optional-dependencies"]["embedded"],
        *_PROJECT["dependency-groups"]["model"],
    ]
    names = {re.match(r"[A-Za-z0-9-]+", requirement)[0].lower() for requirement in asked}
    locked = set(re.findall(r"^([a-z0-9-]+)==", _LOCK, flags=re.MULTILINE))
    assert names <= locked


def test_uv_lock_stays_out_of_git():
    """It names registry addresses."""
    assert "uv.lock" in (_ROOT / ".gitignore").read_text(encoding="utf-8").splitlines()
