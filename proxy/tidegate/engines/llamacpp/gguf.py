"""Reads the metadata of a GGUF file, without loading the model: its chat templates, and the size of its cache.

The format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md.
"""

import functools
import mmap
import re
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path

from msgspec import Struct

_MAGIC = b"GGUF"
_STRING, _ARRAY = 8, 9
_SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}  # bytes of a number, by type
_INTEGERS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 10: "Q", 11: "q"}  # for `struct`, by type
_MAX_DEPTH = 4  # of arrays in arrays
_MAX_LAYERS = 4096  # of an array with a number for each layer
_TEMPLATE = b"tokenizer.chat_template"  # further templates have a suffix: `tokenizer.chat_template.tool_use`
_SIZING = (  # keys without the name of the architecture, which stands before them
    "block_count",
    "context_length",
    "embedding_length",
    "attention.head_count",
    "attention.head_count_kv",
    "attention.key_length",
    "attention.value_length",
)
_F16_BYTES = 2
_COUNT = struct.Struct("<Q")
_TYPE = struct.Struct("<I")
_ARRAY_HEAD = struct.Struct("<IQ")
_BLOCK = re.compile(r"\{[{%].*?[%}]\}", re.DOTALL)
_LITERAL = re.compile(r"'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\"", re.DOTALL)
_TOOLS = re.compile(r"(?<![\w.])tools\b")


class Metadata(Struct, frozen=True):
    """What is read of a file.

    Attributes:
        templates: the chat templates.
        numbers: the keys of `_SIZING` that the file has: one number, or one for each layer.
    """

    templates: tuple[str, ...]
    numbers: Mapping[str, tuple[int, ...]]


def knows_tools(path: Path) -> bool | None:
    """Whether a chat template of the file reads `tools`. A file without a template gets llama.cpp's, which does not.

    None if the file cannot be read.
    """
    metadata = _read(path)
    return None if metadata is None else any(map(_reads_tools, metadata.templates))


def kv_bytes_per_token(path: Path) -> int | None:
    """The bytes that one token takes in llama.cpp's key-value cache, whose numbers are f16.

    Models whose layers do not all attend to the whole window (sliding windows, recurrent layers) take less.
    None if the file cannot be read, or does not say.
    """
    metadata = _read(path)
    if metadata is None:
        return None
    layers = _number(metadata, "block_count")
    heads = metadata.numbers.get("attention.head_count", ())
    kv_heads = metadata.numbers.get("attention.head_count_kv") or heads
    head_length = _number(metadata, "embedding_length") // max((1, *heads))
    lengths = (_number(metadata, f"attention.{name}_length") or head_length for name in ("key", "value"))
    all_kv_heads = sum(kv_heads) if len(kv_heads) > 1 else sum(kv_heads) * layers
    size = all_kv_heads * sum(lengths) * _F16_BYTES
    return size if size > 0 else None


def trained_window(path: Path) -> int | None:
    """The window in tokens that the model was trained for. None if the file cannot be read, or does not say."""
    metadata = _read(path)
    return (metadata and _number(metadata, "context_length")) or None


def _number(metadata: Metadata, name: str) -> int:
    """The number of that name; 0 where the file has none."""
    return max(metadata.numbers.get(name, ()), default=0)


def _reads_tools(template: str) -> bool:
    """Whether the template uses the variable `tools`; the word inside a string literal does not count."""
    return any(_TOOLS.search(_LITERAL.sub("", block)) for block in _BLOCK.findall(template))


def _read(path: Path) -> Metadata | None:
    """None if the file cannot be read."""
    try:
        stat = path.stat()
        return _read_file(path, stat.st_mtime_ns, stat.st_size)
    except (OSError, ValueError, OverflowError, KeyError, struct.error):
        return None


@functools.lru_cache(maxsize=64)
def _read_file(path: Path, _mtime_ns: int, _size: int) -> Metadata:
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        entries = list(_entries(data))
        texts = {key: _string(data, at)[0].decode("utf-8", "replace") for key, kind, at in entries if kind == _STRING}
        architecture = texts.get(b"general.architecture", "")
        wanted = {f"{architecture}.{name}".encode(): name for name in _SIZING}
        return Metadata(
            tuple(text for key, text in texts.items() if key.startswith(_TEMPLATE)),
            {wanted[key]: _integers(data, at, kind) for key, kind, at in entries if key in wanted},
        )


def _entries(data: mmap.mmap) -> Iterator[tuple[bytes, int, int]]:
    """Every key, the type of its value, and the offset of the value."""
    if data[:4] != _MAGIC:
        raise ValueError("no GGUF file")
    (count,) = _COUNT.unpack_from(data, 16)  # after magic, version and the number of tensors
    at = 24
    for _ in range(count):
        key, at = _string(data, at)
        (kind,) = _TYPE.unpack_from(data, at)
        at += _TYPE.size
        yield key, kind, at
        at = _string(data, at)[1] if kind == _STRING else _end_of(data, at, kind, _MAX_DEPTH)


def _integers(data: mmap.mmap, at: int, kind: int) -> tuple[int, ...]:
    """The integer at an offset, or those of an array there; empty for values of another type."""
    count = 1
    if kind == _ARRAY:
        kind, count = _ARRAY_HEAD.unpack_from(data, at)
        at += _ARRAY_HEAD.size
    if kind not in _INTEGERS or count > _MAX_LAYERS:
        return ()
    return struct.unpack_from(f"<{count}{_INTEGERS[kind]}", data, at)


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
