"""Converts JSON to msgspec structs leniently: a field whose value has the wrong type is dropped.

msgspec rejects a whole message if one field has the wrong type. Hosts send many such fields (a number as an id, an
empty list for null), and the caller would lose the answer. `convert` reads the same structs field by field, so only the
wrong field is lost.
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

# A string of one chunk of a stream. It may end after the first half of a surrogate pair, so `convert` leaves lone
# surrogates in it. `extra` marks the type: because of it `msgspec.inspect` reports the type as `inspect.Metadata`, by
# which `_convert_value` recognises a `TextPiece`.
TextPiece = Annotated[str, Meta(extra={"may_end_in_half": True})]
MISSING: Final = object()  # the result of a conversion if the value does not fit the type
_MAX_QUOTED = 200  # characters of an answer that is not JSON, quoted in the error message
_NUMBER = re.compile(r"\s*-?\d{1,19}(?:\.0*)?\s*")
_SURROGATE = re.compile("[\ud800-\udfff]")
_encode = msgspec.json.Encoder().encode


def loads(data: bytes) -> Any:  # noqa: ANN401 - JSON of any shape
    """Decode JSON; NaN, lone surrogates and control characters are accepted, and invalid UTF-8 becomes U+FFFD.

    Raises:
        ValueError: the data are not JSON.
        RecursionError: the JSON nests too deeply.
    """
    return json.loads(data.decode("utf-8-sig", "replace"), strict=False)


def convert(value: object, kind: type[T]) -> T | None:
    """Convert decoded JSON to the struct `kind`; None if it is not an object, or a required field does not fit.

    Strings become valid Unicode (see `valid_unicode`). The exceptions are a `TextPiece` and a string that is read as
    `Raw`: they keep lone surrogates, because the next chunk may hold the other half of the pair.
    """
    converted = _convert_value(value, _type_info(kind))  # type: ignore[arg-type]  # mypy: a type variable is not hashable
    return None if converted is MISSING else converted


def valid_unicode(text: str) -> str:
    """Return `text` as valid Unicode: a surrogate pair becomes its character, a lone surrogate a question mark."""
    if text.isascii() or _SURROGATE.search(text) is None:
        return text
    joined = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "surrogatepass")
    return joined.encode("utf-8", "replace").decode()


def describe(data: bytes) -> str:
    """Return the error message for an answer that is not JSON; text is quoted in it, binary data are not."""
    start = data.lstrip()[: 4 * _MAX_QUOTED].decode("utf-8", "replace")
    text = valid_unicode(start[:_MAX_QUOTED]).strip()  # the cut at bytes may split the last character of `start`
    if not text:
        return "The upstream answered with an empty body."
    if text.startswith("<"):
        return "The upstream answered with a page of HTML or XML in place of JSON."
    if text.startswith("{"):
        return "The upstream answered with JSON that is broken."
    if "\ufffd" in text or not text.replace("\n", " ").replace("\t", " ").replace("\r", " ").isprintable():
        return "The upstream answered with bytes that are no JSON."
    return f"The upstream answered with text in place of JSON: {text}"


@functools.cache
def _type_info(kind: Hashable) -> inspect.Type:
    return inspect.type_info(kind)


def _convert_value(value: Any, kind: inspect.Type) -> Any:  # noqa: ANN401 - JSON of any shape
    """Convert a value to `kind` without the parts that do not fit; `MISSING` if the value itself does not fit."""
    if isinstance(kind, inspect.UnionType):
        converted = (_convert_value(value, each) for each in kind.types)
        return next((each for each in converted if each is not MISSING), MISSING)
    if isinstance(kind, inspect.StructType):
        return _convert_struct(value, kind)
    if isinstance(kind, inspect.ListType):
        return _convert_list(value, kind)
    if isinstance(kind, inspect.RawType):  # for a string `json.dumps`, as it escapes lone surrogates and so keeps them
        return Raw(json.dumps(value).encode() if isinstance(value, str) else _encode(_with_valid_unicode(value)))
    if isinstance(kind, inspect.Metadata):
        return value if isinstance(value, str) else _convert_value(value, kind.type)
    if isinstance(kind, inspect.DictType):
        return _with_valid_unicode(value) if isinstance(value, dict) else MISSING
    return _convert_scalar(value, kind)


def _convert_list(value: Any, kind: inspect.ListType) -> Any:  # noqa: ANN401 - JSON of any shape
    if not isinstance(value, list):
        return MISSING
    converted = [_convert_value(item, kind.item_type) for item in value]
    if isinstance(kind.item_type, inspect.FloatType) and MISSING in converted:
        return MISSING  # a vector without some of its numbers would be wrong
    return [item for item in converted if item is not MISSING]


def _convert_struct(value: Any, kind: inspect.StructType) -> Any:  # noqa: ANN401 - JSON of any shape
    if not isinstance(value, dict):
        return MISSING
    fields = {}
    for field in kind.fields:
        converted = _convert_value(value[field.encode_name], field.type) if field.encode_name in value else MISSING
        if converted is not MISSING:
            fields[field.name] = converted
        elif field.required:
            return MISSING
    return kind.cls(**fields)


def _convert_scalar(value: Any, kind: inspect.Type) -> Any:  # noqa: ANN401 - JSON of any shape
    if value is None:
        return None if isinstance(kind, inspect.NoneType) else MISSING
    if isinstance(kind, inspect.BoolType):
        return value if isinstance(value, bool) else MISSING
    if isinstance(kind, inspect.StrType):
        if isinstance(value, str):
            return valid_unicode(value)
        return str(value) if _is_number(value) else MISSING
    if isinstance(kind, inspect.IntType):
        return _integer(value)
    if isinstance(kind, inspect.FloatType):
        return float(value) if _is_number(value) else MISSING
    return MISSING


def _integer(value: object) -> Any:  # noqa: ANN401 - or `MISSING`
    if isinstance(value, str) and _NUMBER.fullmatch(value):
        value = float(value) if "." in value else int(value)
    return int(value) if _is_number(value) and value == int(value) else MISSING  # type: ignore[call-overload]


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _with_valid_unicode(value: Any) -> Any:  # noqa: ANN401 - JSON of any shape
    """Return the same JSON with valid Unicode in every string; the encoder rejects lone surrogates."""
    if isinstance(value, str):
        return valid_unicode(value)
    if isinstance(value, list):
        return [_with_valid_unicode(item) for item in value]
    if isinstance(value, dict):
        return {valid_unicode(name): _with_valid_unicode(item) for name, item in value.items()}
    return value
