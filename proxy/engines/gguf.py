"""The metadata of a GGUF file, as far as it is needed; nothing is loaded.

The format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md.
"""

import functools
import mmap
import re
import struct
from collections.abc import Iterator
from pathlib import Path

_MAGIC = b"GGUF"
_STRING, _ARRAY = 8, 9
_SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}  # bytes of a number, by type
_MAX_DEPTH = 4  # of arrays in arrays
_TEMPLATE = b"tokenizer.chat_template"  # further ones, for tools or for retrieval, are behind a dot
_COUNT = struct.Struct("<Q")
_TYPE = struct.Struct("<I")
_ARRAY_HEAD = struct.Struct("<IQ")
_BLOCK = re.compile(r"\{[{%].*?[%}]\}", re.DOTALL)
_LITERAL = re.compile(r"'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\"", re.DOTALL)
_TOOLS = re.compile(r"(?<![\w.])tools\b")


def knows_tools(path: Path) -> bool | None:
    """Whether a chat template of the file looks at `tools`; without one, llama.cpp's own does not.

    None where the file cannot be read.
    """
    try:
        stat = path.stat()
        templates = _templates(path, stat.st_mtime_ns, stat.st_size)
    except (OSError, ValueError, OverflowError, KeyError, struct.error):
        return None
    return any(map(_looks_at_tools, templates))


def _looks_at_tools(template: str) -> bool:
    """As a variable: the word may stand in a text."""
    return any(_TOOLS.search(_LITERAL.sub("", block)) for block in _BLOCK.findall(template))


@functools.lru_cache(maxsize=64)
def _templates(path: Path, _mtime_ns: int, _size: int) -> tuple[str, ...]:
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        return tuple(value.decode("utf-8", "replace") for key, value in _texts(data) if key.startswith(_TEMPLATE))


def _texts(data: mmap.mmap) -> Iterator[tuple[bytes, bytes]]:
    """Every key whose value is a text."""
    if data[:4] != _MAGIC:
        raise ValueError("no GGUF file")
    (count,) = _COUNT.unpack_from(data, 16)  # behind magic, version and the number of tensors
    at = 24
    for _ in range(count):
        key, at = _text(data, at)
        (kind,) = _TYPE.unpack_from(data, at)
        at += _TYPE.size
        if kind == _STRING:
            value, at = _text(data, at)
            yield key, value
        else:
            at = _behind(data, at, kind, _MAX_DEPTH)


def _text(data: mmap.mmap, at: int) -> tuple[bytes, int]:
    (size,) = _COUNT.unpack_from(data, at)
    end = at + _COUNT.size + size
    if end > len(data):
        raise ValueError("it is cut")
    return data[at + _COUNT.size : end], end


def _behind(data: mmap.mmap, at: int, kind: int, depth: int) -> int:
    """Where the value ends; most arrays hold the texts of all tokens."""
    if kind != _ARRAY:
        return at + _SIZES[kind]
    item, count = _ARRAY_HEAD.unpack_from(data, at)
    at += _ARRAY_HEAD.size
    if item == _STRING:
        for _ in range(count):
            at += _COUNT.size + _COUNT.unpack_from(data, at)[0]
    elif item == _ARRAY and depth:
        for _ in range(count):
            at = _behind(data, at, item, depth - 1)
    else:
        at += count * _SIZES[item]
    return at
