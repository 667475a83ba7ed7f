"""Looks for inputs that break a target, with atheris (`.github/CONTRIBUTING.md` describes how to run it).

    uv run --with atheris python tests/fuzz/run.py TARGET SECONDS|--merge|FLAGS

Starts from the committed corpus and from recorded answers of hosts (`tests/data`). Inputs that reach new code are kept
in `build/fuzz/TARGET`; an input that breaks something is saved as `build/fuzz/TARGET-crash-…`. With `--merge`, the
inputs that reach code which the corpus does not reach are added to the corpus.
"""

import json
import random
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import atheris

with atheris.instrument_imports(include=["tidegate"]):
    from tests.fuzz.targets import TARGETS

_HERE = Path(__file__).parent
_ROOT = _HERE.parents[1]
_OUTPUT = _ROOT / "build" / "fuzz"
_MAX_INPUT = 2048
_MARKUP = re.compile(r"<[^>\s]{1,40}>?")
_WORD = re.compile(r'"([\w:/<>-]{1,40})"')
_ODD: list[Any] = [None, True, False, 0, 1, -1, 7, 1.5, 10**30, float("nan"), "", "0", " ", "\ud83d", "{", "{}", [], {}]


class Mutator:
    """Changes JSON values inside an input, or leaves the change to atheris, whose changes usually break the JSON.

    The words that it inserts are from Tidegate's own sources, so that the names of fields are found at once.
    """

    def __init__(self) -> None:
        sources = [path.read_text(encoding="utf-8") for path in (_ROOT / "proxy").rglob("*.py")]
        tests = [path.read_text(encoding="utf-8") for path in (_ROOT / "tests" / "unit" / "streaming").glob("*.py")]
        self._words = sorted({word for text in sources for word in _WORD.findall(text)})
        self._markup = sorted({tag for text in tests for tag in _MARKUP.findall(text)})

    def __call__(self, data: bytes, max_size: int, seed: int) -> bytes:
        rng = random.Random(seed)
        lines = bytes(data).split(b"\n")
        at = rng.randrange(len(lines))
        prefix = b"data: " if lines[at].startswith(b"data: ") else b""
        try:
            value = json.loads(lines[at].removeprefix(prefix))
        except (ValueError, RecursionError):
            return atheris.Mutate(data, max_size)
        if rng.random() < 0.2:
            return atheris.Mutate(data, max_size)
        for _ in range(rng.choice((1, 1, 2, 4))):
            value = self._changed(value, rng)
        line = prefix + json.dumps(value).encode()
        lines[at : at + 1] = [line, b"", line] if prefix and rng.random() < 0.1 else [line]
        return b"\n".join(lines)[:max_size]

    def _changed(self, root: Any, rng: random.Random) -> Any:
        places = [place for place in _places(root) if place[0]]
        if not places:
            return self._value(root, rng)
        holder, key = rng.choice(places)
        match rng.randrange(5):
            case 0:
                del holder[key]
            case 1 if isinstance(holder, dict):
                holder[rng.choice(self._words)] = holder[key]
            case 1:
                holder.insert(key, holder[key])
            case 2:
                other, name = rng.choice(places)
                holder[key] = json.loads(json.dumps(other[name]))
            case _:
                holder[key] = self._value(holder[key], rng)
        return root

    def _value(self, old: Any, rng: random.Random) -> Any:
        match rng.randrange(6):
            case 0:
                return rng.choice(_ODD)
            case 1:
                return rng.choice(self._words)
            case 2:
                return {rng.choice(self._words): old}
            case 3:
                return [old] if rng.random() < 0.5 else json.dumps(old)
            case _:
                return self._text(old if isinstance(old, str) else "", rng)

    def _text(self, old: str, rng: random.Random) -> str:
        cut = rng.randint(0, len(old))
        fragment = rng.choice((rng.choice(self._markup), rng.choice(self._words), " \n", '{"a":'))
        return old[:cut] + fragment[: rng.randint(1, len(fragment))] + old[cut:]


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Yield every value inside `value`, as the list or object that holds it and its index or name."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in inner:
        yield value, key
        yield from _places(item)


def main() -> None:
    name, *options = sys.argv[1:]
    output, corpus = _OUTPUT / name, _HERE / "corpus" / name
    for folder in (output, corpus):
        folder.mkdir(parents=True, exist_ok=True)
    bounds = [f"-max_len={_MAX_INPUT}", "-timeout=20", "-rss_limit_mb=2048", f"-artifact_prefix={output}-"]
    match options:
        case ["--merge"]:
            flags = ["-set_cover_merge=1", "-use_counters=0", str(corpus), str(output)]
        case [seconds] if seconds.isdigit():
            sent = [str(path) for path in (_ROOT / "tests" / "data").iterdir() if path.is_dir()]
            flags = [f"-max_total_time={seconds}", str(output), str(corpus), *sent]
        case _:
            flags = options  # a merge runs this script once more, with flags of its own
    ourselves = f"{sys.executable} {sys.argv[0]} {name}"
    atheris.Setup([ourselves, *bounds, *flags], TARGETS[name], custom_mutator=Mutator())
    atheris.Fuzz()


if __name__ == "__main__":
    main()
