"""Reads the metadata of a GGUF file without loading the model: its chat templates, and the numbers that size its cache.

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
_MAX_LAYERS = 4096  # longest array that is read: it has one number for each layer
_TEMPLATE = b"tokenizer.chat_template"  # further templates have a suffix: `tokenizer.chat_template.tool_use`
_SIZE_KEYS = (  # keys without their prefix, which is the name of the architecture and a dot
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
    """The metadata that is read from a file.

    Attributes:
        templates: the chat templates.
        numbers: the values of the keys in `_SIZE_KEYS` that the file has: one number, or one for each layer.
    """

    templates: tuple[str, ...]
    numbers: Mapping[str, tuple[int, ...]]


def supports_tools(path: Path) -> bool | None:
    """Return whether a chat template of the file reads `tools`; None if the file cannot be read.

    For a file without a template llama.cpp uses a template of its own, which does not read `tools`.
    """
    metadata = _read(path)
    return None if metadata is None else any(map(_reads_tools, metadata.templates))


def kv_bytes_per_token(path: Path) -> int | None:
    """Return the bytes that one token takes in llama.cpp's key-value cache, whose numbers are f16.

    It is an upper limit: models take less if some layers do not attend to the whole window (sliding windows, recurrent
    layers). Returns None if the file cannot be read, or lacks the numbers.
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
    """Return the context window in tokens that the model was trained for.

    Returns None if the file cannot be read, or lacks the number.
    """
    metadata = _read(path)
    return (metadata and _number(metadata, "context_length")) or None


def _number(metadata: Metadata, name: str) -> int:
    """Return the number of that name, the largest if there is one for each layer; 0 if the file has none."""
    return max(metadata.numbers.get(name, ()), default=0)


def _reads_tools(template: str) -> bool:
    """Return whether the template uses the variable `tools`; the word inside a string literal does not count."""
    return any(_TOOLS.search(_LITERAL.sub("", block)) for block in _BLOCK.findall(template))


def _read(path: Path) -> Metadata | None:
    """Return the metadata of the file; None if it cannot be read."""
    try:
        stat = path.stat()
        return _read_file(path, stat.st_mtime_ns, stat.st_size)
    except (OSError, ValueError, OverflowError, KeyError, struct.error):
        return None


@functools.lru_cache(maxsize=64)
def _read_file(path: Path, _mtime_ns: int, _size: int) -> Metadata:
    """Read the file; time and size are arguments so that a changed file is read again in spite of the cache."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        entries = list(_entries(data))
        texts = {
            key: _string(data, offset)[0].decode("utf-8", "replace") for key, kind, offset in entries if kind == _STRING
        }
        architecture = texts.get(b"general.architecture", "")
        names = {f"{architecture}.{name}".encode(): name for name in _SIZE_KEYS}
        return Metadata(
            tuple(text for key, text in texts.items() if key.startswith(_TEMPLATE)),
            {names[key]: _integers(data, offset, kind) for key, kind, offset in entries if key in names},
        )


def _entries(data: mmap.mmap) -> Iterator[tuple[bytes, int, int]]:
    """Yield every key with the type of its value and the offset of the value."""
    if data[:4] != _MAGIC:
        raise ValueError("no GGUF file")
    (count,) = _COUNT.unpack_from(data, 16)  # after magic, version and the number of tensors
    offset = 24
    for _ in range(count):
        key, offset = _string(data, offset)
        (kind,) = _TYPE.unpack_from(data, offset)
        offset += _TYPE.size
        yield key, kind, offset
        offset = _string(data, offset)[1] if kind == _STRING else _end_of(data, offset, kind, _MAX_DEPTH)


def _integers(data: mmap.mmap, offset: int, kind: int) -> tuple[int, ...]:
    """Return the integer at an offset, or the integers of the array there; empty for values of another type."""
    count = 1
    if kind == _ARRAY:
        kind, count = _ARRAY_HEAD.unpack_from(data, offset)
        offset += _ARRAY_HEAD.size
    if kind not in _INTEGERS or count > _MAX_LAYERS:
        return ()
    return struct.unpack_from(f"<{count}{_INTEGERS[kind]}", data, offset)


def _string(data: mmap.mmap, offset: int) -> tuple[bytes, int]:
    (size,) = _COUNT.unpack_from(data, offset)
    end = offset + _COUNT.size + size
    if end > len(data):
        raise ValueError("the file is truncated")
    return data[offset + _COUNT.size : end], end


def _end_of(data: mmap.mmap, offset: int, kind: int, depth: int) -> int:
    """Return the offset of the end of a value."""
    if kind != _ARRAY:
        return offset + _SIZES[kind]
    item, count = _ARRAY_HEAD.unpack_from(data, offset)
    offset += _ARRAY_HEAD.size
    if item == _STRING:
        for _ in range(count):
            offset += _COUNT.size + _COUNT.unpack_from(data, offset)[0]
    elif item == _ARRAY and depth:
        for _ in range(count):
            offset = _end_of(data, offset, item, depth - 1)
    else:
        offset += count * _SIZES[item]
    return offset
