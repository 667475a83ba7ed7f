"""JSON of odd types as our structs: each value is taken as far as it fits, and left out where it does not (DESIGN 5).

msgspec refuses a whole message for one field of the wrong type. Hosts send many such fields (an id that is a number, an
empty list in place of null), and a caller loses an answer by it. `convert` goes by the same structs, field by field.
"""

import functools
import json
import math
import re
from collections.abc import Hashable
from typing import Annotated, Any, Final, TypeVar

import msgspec
from msgspec import Meta, Raw, inspect

T = TypeVar("T")

Piece = Annotated[str, Meta(extra={"may_end_in_half": True})]  # of a text that comes in chunks
NOTHING: Final = object()
_MAX_SHOWN = 200  # characters of what is no JSON
_NUMBER = re.compile(r"\s*-?\d{1,19}(?:\.0*)?\s*")
_SURROGATE = re.compile("[\ud800-\udfff]")
_encode = msgspec.json.Encoder().encode


def loads(data: bytes) -> Any:  # noqa: ANN401 - JSON of any shape
    """JSON as Python reads it: NaN, half surrogate pairs and control characters pass; bytes that are no UTF-8 become �.

    Raises:
        ValueError: it is no JSON.
        RecursionError: it nests too deeply.
    """
    return json.loads(data.decode("utf-8-sig", "replace"), strict=False)


def convert(value: object, kind: type[T]) -> T | None:
    """`value`, made of what `json` gives, as the struct `kind`; None where it is no JSON object.

    Strings come out as valid Unicode, but for those of a `Piece` and raw strings: these keep halves of surrogate pairs,
    as the other half may come with the next chunk (see `sound`).
    """
    taken = _take(value, _type_info(kind))  # type: ignore[arg-type]  # mypy: a type variable is not hashable
    return None if taken is NOTHING else taken


def sound(text: str) -> str:
    """`text` as valid Unicode: two halves of a surrogate pair become their character, one alone a question mark."""
    if text.isascii() or _SURROGATE.search(text) is None:
        return text
    joined = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "surrogatepass")
    return joined.encode("utf-8", "replace").decode()


def describe(data: bytes) -> str:
    """What came in place of JSON, in words; nothing is quoted that is no text."""
    text = sound(data[: 4 * _MAX_SHOWN].decode("utf-8", "replace")).strip()
    if not text:
        return "The upstream answered with an empty body."
    if text.startswith("<"):
        return "The upstream answered with a page of HTML or XML in place of JSON."
    if text.startswith("{"):
        return "The upstream answered with JSON that is broken."
    if "\ufffd" in text or not text.replace("\n", " ").replace("\t", " ").replace("\r", " ").isprintable():
        return "The upstream answered with bytes that are no JSON."
    return f"The upstream answered with text in place of JSON: {text[:_MAX_SHOWN]}"


@functools.cache
def _type_info(kind: Hashable) -> inspect.Type:
    return inspect.type_info(kind)


def _take(value: Any, kind: inspect.Type) -> Any:  # noqa: ANN401 - JSON of any shape
    """What of `value` fits; `NOTHING` where nothing does."""
    if isinstance(kind, inspect.UnionType):
        taken = (_take(value, each) for each in kind.types)
        return next((each for each in taken if each is not NOTHING), NOTHING)
    if isinstance(kind, inspect.StructType):
        return _take_struct(value, kind)
    if isinstance(kind, inspect.ListType):
        return _take_list(value, kind)
    if isinstance(kind, inspect.RawType):
        return Raw(json.dumps(value).encode() if isinstance(value, str) else _encode(_plain(value)))
    if isinstance(kind, inspect.Metadata):
        return value if isinstance(value, str) else _take(value, kind.type)
    if isinstance(kind, inspect.DictType):
        return _plain(value) if isinstance(value, dict) else NOTHING
    return _take_scalar(value, kind)


def _take_list(value: Any, kind: inspect.ListType) -> Any:  # noqa: ANN401 - JSON of any shape
    if not isinstance(value, list):
        return NOTHING
    taken = [_take(item, kind.item_type) for item in value]
    if isinstance(kind.item_type, inspect.FloatType) and NOTHING in taken:
        return NOTHING  # a vector without one of its numbers is another vector
    return [item for item in taken if item is not NOTHING]


def _take_struct(value: Any, kind: inspect.StructType) -> Any:  # noqa: ANN401 - JSON of any shape
    if not isinstance(value, dict):
        return NOTHING
    fields = {}
    for field in kind.fields:
        taken = _take(value[field.encode_name], field.type) if field.encode_name in value else NOTHING
        if taken is not NOTHING:
            fields[field.name] = taken
        elif field.required:
            return NOTHING
    return kind.cls(**fields)


def _take_scalar(value: Any, kind: inspect.Type) -> Any:  # noqa: ANN401 - JSON of any shape
    if value is None:
        return None if isinstance(kind, inspect.NoneType) else NOTHING
    if isinstance(kind, inspect.BoolType):
        return value if isinstance(value, bool) else NOTHING
    if isinstance(kind, inspect.StrType):
        if isinstance(value, str):
            return sound(value)
        return str(value) if _is_number(value) else NOTHING
    if isinstance(kind, inspect.IntType):
        return _integer(value)
    if isinstance(kind, inspect.FloatType):
        return float(value) if _is_number(value) else NOTHING
    return NOTHING


def _integer(value: object) -> Any:  # noqa: ANN401 - or `NOTHING`
    if isinstance(value, str) and _NUMBER.fullmatch(value):
        value = float(value) if "." in value else int(value)
    return int(value) if _is_number(value) and value == int(value) else NOTHING  # type: ignore[call-overload]


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _plain(value: Any) -> Any:  # noqa: ANN401 - JSON of any shape
    """With valid Unicode alone, which is all that can be written as JSON again."""
    if isinstance(value, str):
        return sound(value)
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return {sound(name): _plain(item) for name, item in value.items()} if isinstance(value, dict) else value
