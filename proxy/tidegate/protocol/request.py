"""From the bytes of a request body to checked fields, with OpenAI's words for what is wrong.

Sizes, depth and UTF-8 are checked before anything is built: `msgspec.Raw` does not look inside strings, and deep JSON
would end in a bare `RecursionError` (contract E.5).
"""

import re
from typing import Annotated, Literal, TypeVar

import msgspec

from tidegate.errors import MalformedRequest

MAX_DEPTH = 64

Endpoint = Literal["chat", "completions", "embeddings"]
ModelName = Annotated[str, msgspec.Meta(min_length=1, max_length=512)]  # it is kept in several places
Fields = dict[str, msgspec.Raw]
T = TypeVar("T")

decode_fields = msgspec.json.Decoder(Fields).decode

_TO_SQUARE = bytes.maketrans(b"{}", b"[]")
_RUNS = re.compile(rb"\[+|\]+")
_INNER_LEVELS = 8  # with as many the slowest of all bodies takes the least time
_NOT_MARKS = bytes(set(range(256)) - set(b'"[]{}'))

_NOT_JSON = (
    "We could not parse the JSON body of your request. The API expects a JSON payload, but what was sent was not "
    "valid JSON"
)


class ModelRequest(msgspec.Struct, frozen=True, gc=False):
    """A checked request to a model, as the pipeline carries it.

    `fields` holds every top-level field of the body as untouched bytes (duplicates: the last one), which is what a
    dialect starts from. The bytes borrow the body's buffer: copy what is to outlive the request. `prefix` is what has
    been said of the answer already, where it broke off and is to be gone on with.
    """

    endpoint: Endpoint
    model: str
    fields: Fields
    is_stream: bool = False
    wants_usage: bool = False
    prefix: str = ""


def decode(body: bytes, decoder: msgspec.json.Decoder[T]) -> T:
    """Decode `body`, or say what is wrong with it as OpenAI would.

    Raises:
        MalformedRequest: not UTF-8, not JSON, nested too deeply, or not of the decoder's type.
    """
    if not body.isascii():
        try:
            body.decode()
        except UnicodeDecodeError as error:
            raise MalformedRequest(f"{_NOT_JSON}: it is not UTF-8 at byte {error.start}.") from error
    if is_deeper_than(body, MAX_DEPTH):
        raise MalformedRequest(f"The JSON body is nested more than {MAX_DEPTH} levels deep.", code="json_too_deep")
    try:
        return decoder.decode(body)
    except msgspec.ValidationError as error:
        raise _explain(str(error)) from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise MalformedRequest(f"{_NOT_JSON}: {error}.") from error


def is_deeper_than(body: bytes, limit: int) -> bool:
    """Whether arrays and objects nest deeper than `limit`; time is linear in `body`, whatever it holds.

    Escaped backslashes go first (from the left, so that of three two are a pair), then escaped quotes, then all but
    quotes and brackets, then pairs of quotes side by side, whether a string ends between them or stands there: the
    number of quotes before each bracket stays odd, in a string, or even, outside. What is left outside are the brackets
    that count. Most nest little, and go pair by pair from the inside; the rest is counted run by run.
    """
    if body.count(b"[") + body.count(b"{") <= limit:
        return False
    if b"\\" in body:
        body = body.replace(rb"\\", b"").replace(rb"\"", b"")
    marks = body.translate(_TO_SQUARE, _NOT_MARKS).replace(b'""', b"")
    brackets = b"".join(marks.split(b'"')[::2])
    levels = min(limit, _INNER_LEVELS)
    for _ in range(levels):
        brackets = brackets.replace(b"[]", b"")
    depth = 0
    for run in _RUNS.findall(brackets):
        depth += len(run) if run.startswith(b"[") else -len(run)
        if depth > limit - levels:
            return True
    return False


def missing(param: str) -> MalformedRequest:
    """OpenAI's error for a field that must be there."""
    return MalformedRequest(f"Missing required parameter: '{param}'.", param=param, code="missing_required_parameter")


def wrong_type(param: str, expected: str, got: str) -> MalformedRequest:
    """OpenAI's error for a field of the wrong JSON type."""
    return MalformedRequest(
        f"Invalid type for '{param}': expected {expected}, but got {got} instead.",
        param=param,
        code="invalid_type",
    )


def is_null(raw: msgspec.Raw) -> bool:
    """Whether a value is null; does not copy it."""
    return memoryview(raw)[0] == _N


def json_type(raw: msgspec.Raw) -> str:
    """The JSON type of a value by its first byte: `string`, `array`, `object`, `null`, `boolean` or `number`."""
    return _TYPES.get(memoryview(raw)[0], "number")


_N = ord("n")
_TYPES = {
    ord('"'): "string",
    ord("["): "array",
    ord("{"): "object",
    ord("n"): "null",
    ord("t"): "boolean",
    ord("f"): "boolean",
}

_WORDS = {
    "str": "a string",
    "int": "an integer",
    "float": "a decimal",
    "bool": "a boolean",
    "array": "an array",
    "object": "an object",
    "null": "null",
}
_AT = re.compile(r" - at `\$\.?(?P<path>.*)`$")
_MISSING = re.compile(r"Object missing required field `(?P<field>.+)`$")
_TYPE = re.compile(r"Expected `(?P<expected>[^`]+)`, got `(?P<got>[^`]+)`$")
_BOUND = re.compile(r"Expected `(?P<kind>int|float)` (?P<op><=|>=|<|>) (?P<bound>\S+)$")
_LENGTH = re.compile(r"Expected `(?P<kind>array|str)` of length (?P<op><=|>=) (?P<bound>\d+)$")
_ENUM = re.compile(r"Invalid enum value (?P<value>.+)$")


def _explain(message: str) -> MalformedRequest:
    """OpenAI's words for one of msgspec's validation errors (their forms are pinned by the tests)."""
    at = _AT.search(message)
    path = at["path"].replace("[...]", "") if at else ""
    what = message[: at.start()] if at else message
    if match := _MISSING.match(what):
        return missing(f"{path}.{match['field']}" if path else match["field"])
    if match := _TYPE.match(what):
        expected = " or ".join(_WORDS.get(word, word) for word in match["expected"].split(" | ") if word != "null")
        if not path:
            return MalformedRequest("The JSON body must be an object.", code="invalid_type")
        return wrong_type(path, expected, _WORDS.get(match["got"], match["got"]))
    if match := _BOUND.match(what):
        return _out_of_range(path, match)
    if match := _LENGTH.match(what):
        return _wrong_length(path, match)
    if match := _ENUM.match(what):
        return MalformedRequest(f"Invalid value for '{path}': {match['value']}.", param=path, code="invalid_value")
    return MalformedRequest(f"Invalid value: {what}.", param=path or None, code="invalid_value")


def _out_of_range(path: str, match: re.Match[str]) -> MalformedRequest:
    kind = "integer" if match["kind"] == "int" else "decimal"
    side, slug = ("below minimum", "below_min") if ">" in match["op"] else ("above maximum", "above_max")
    bound = match["bound"].removesuffix(".0")
    return MalformedRequest(
        f"Invalid '{path}': {kind} {side} value. Expected a value {match['op']} {bound}.",
        param=path,
        code=f"{kind}_{slug}_value",
    )


def _wrong_length(path: str, match: re.Match[str]) -> MalformedRequest:
    noun = "array" if match["kind"] == "array" else "string"
    if match["op"] == ">=" and match["bound"] == "1":
        text = f"empty {noun}. Expected {_WORDS[match['kind']]} with minimum length 1, but got an empty {noun} instead"
        return MalformedRequest(f"Invalid '{path}': {text}.", param=path, code=f"empty_{noun}")
    side = "below_min" if match["op"] == ">=" else "above_max"
    text = f"{noun} of the wrong length. Expected a length {match['op']} {match['bound']}"
    return MalformedRequest(f"Invalid '{path}': {text}.", param=path, code=f"{noun}_{side}_length")
