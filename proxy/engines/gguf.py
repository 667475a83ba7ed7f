"""Reads the chat templates in the metadata of a GGUF file, without loading the model.

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
_TEMPLATE = b"tokenizer.chat_template"  # further templates have a suffix: `tokenizer.chat_template.tool_use`
_COUNT = struct.Struct("<Q")
_TYPE = struct.Struct("<I")
_ARRAY_HEAD = struct.Struct("<IQ")
_BLOCK = re.compile(r"\{[{%].*?[%}]\}", re.DOTALL)
_LITERAL = re.compile(r"'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\"", re.DOTALL)
_TOOLS = re.compile(r"(?<![\w.])tools\b")


def knows_tools(path: Path) -> bool | None:
    """Whether a chat template of the file reads `tools`. A file without a template gets llama.cpp's, which does not.

    None if the file cannot be read.
    """
    try:
        stat = path.stat()
        templates = _templates(path, stat.st_mtime_ns, stat.st_size)
    except (OSError, ValueError, OverflowError, KeyError, struct.error):
        return None
    return any(map(_reads_tools, templates))


def _reads_tools(template: str) -> bool:
    """Whether the template uses the variable `tools`; the word inside a string literal does not count."""
    return any(_TOOLS.search(_LITERAL.sub("", block)) for block in _BLOCK.findall(template))


@functools.lru_cache(maxsize=64)
def _templates(path: Path, _mtime_ns: int, _size: int) -> tuple[str, ...]:
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        return tuple(value.decode("utf-8", "replace") for key, value in _strings(data) if key.startswith(_TEMPLATE))


def _strings(data: mmap.mmap) -> Iterator[tuple[bytes, bytes]]:
    """Every key whose value is a string, with the value."""
    if data[:4] != _MAGIC:
        raise ValueError("no GGUF file")
    (count,) = _COUNT.unpack_from(data, 16)  # after magic, version and the number of tensors
    at = 24
    for _ in range(count):
        key, at = _string(data, at)
        (kind,) = _TYPE.unpack_from(data, at)
        at += _TYPE.size
        if kind == _STRING:
            value, at = _string(data, at)
            yield key, value
        else:
            at = _end_of(data, at, kind, _MAX_DEPTH)


def _string(data: mmap.mmap, at: int) -> tuple[bytes, int]:
    (size,) = _COUNT.unpack_from(data, at)
    end = at + _COUNT.size + size
    if end > len(data):
        raise ValueError("the file is truncated")
    return data[at + _COUNT.size : end], end


def _end_of(data: mmap.mmap, at: int, kind: int, depth: int) -> int:
    """The offset of the end of a value."""
    if kind != _ARRAY:
        return at + _SIZES[kind]
    item, count = _ARRAY_HEAD.unpack_from(data, at)
    at += _ARRAY_HEAD.size
    if item == _STRING:
        for _ in range(count):
            at += _COUNT.size + _COUNT.unpack_from(data, at)[0]
    elif item == _ARRAY and depth:
        for _ in range(count):
            at = _end_of(data, at, item, depth - 1)
    else:
        at += count * _SIZES[item]
    return at
