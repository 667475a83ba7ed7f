"""Decodes the bytes of a request body to checked fields, with OpenAI's error messages.

UTF-8 and the nesting depth are checked before the JSON is decoded: `msgspec.Raw` does not check the bytes inside
strings, and deep JSON would raise a bare `RecursionError` (contract E.5).
"""

import re
from typing import Annotated, Literal, TypeVar

import msgspec

from tidegate.errors import MalformedRequest

MAX_DEPTH = 64

Endpoint = Literal["chat", "completions", "embeddings"]
ModelName = Annotated[
    str, msgspec.Meta(min_length=1, max_length=512)
]  # limited, as the name is stored in several places
Fields = dict[str, msgspec.Raw]
T = TypeVar("T")

decode_fields = msgspec.json.Decoder(Fields).decode

_TO_SQUARE = bytes.maketrans(b"{}", b"[]")
_RUNS = re.compile(rb"\[+|\]+")
_INNER_LEVELS = 8  # the number that takes the least time for the slowest possible body
_NOT_MARKS = bytes(set(range(256)) - set(b'"[]{}'))

_NOT_JSON = (
    "We could not parse the JSON body of your request. The API expects a JSON payload, but what was sent was not "
    "valid JSON"
)


class ModelRequest(msgspec.Struct, frozen=True, gc=False):
    """A checked request to a model, as the pipeline passes it on.

    Attributes:
        endpoint: the API that the caller used.
        model: the public name of the model.
        fields: every top-level field of the body as unchanged bytes; of duplicates, the last one. A dialect builds the
            host's request from them. The bytes refer to the body's buffer: copy what must outlive the request.
        is_stream: the caller requested a stream.
        wants_usage: the caller requested the usage at the end of the stream.
        prefix: the text of the answer that the caller has already received, if the answer broke off and another target
            is to continue it; empty otherwise.
    """

    endpoint: Endpoint
    model: str
    fields: Fields
    is_stream: bool = False
    wants_usage: bool = False
    prefix: str = ""


def decode(body: bytes, decoder: msgspec.json.Decoder[T]) -> T:
    """Decode `body`; errors have OpenAI's messages.

    Raises:
        MalformedRequest: the body is not UTF-8, not JSON, nested too deeply, or not of the decoder's type.
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
    """Whether arrays and objects nest deeper than `limit`; the time is linear in the size of any `body`.

    The body is reduced to the brackets outside strings, by fast operations of `bytes`:

    1. Remove escaped backslashes (from the left: of three backslashes the first two are a pair), then escaped quotes.
    2. Remove all bytes but quotes and brackets; braces become square brackets.
    3. Remove pairs of adjacent quotes. A pair may be an empty string, or the end of one string and the beginning of the
       next. Either way the number of quotes before each bracket stays odd inside a string and even outside.
    4. Split at the quotes that are left; every second part is outside strings.

    Then pairs `[]` are removed from the inside, `_INNER_LEVELS` times, which is enough for most bodies. In the rest,
    each run of equal brackets is counted at once.
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
    """Return OpenAI's error for a required field that is missing."""
    return MalformedRequest(f"Missing required parameter: '{param}'.", param=param, code="missing_required_parameter")


def wrong_type(param: str, expected: str, got: str) -> MalformedRequest:
    """Return OpenAI's error for a field of the wrong JSON type."""
    return MalformedRequest(
        f"Invalid type for '{param}': expected {expected}, but got {got} instead.",
        param=param,
        code="invalid_type",
    )


def is_null(raw: msgspec.Raw) -> bool:
    """Whether a value is null; the value is not copied."""
    return memoryview(raw)[0] == _N


def json_type(raw: msgspec.Raw) -> str:
    """Return a value's JSON type by its first byte: `string`, `array`, `object`, `null`, `boolean` or `number`."""
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

_NOUNS = {
    "str": "a string",
    "int": "an integer",
    "float": "a decimal",
    "bool": "a boolean",
    "array": "an array",
    "object": "an object",
    "null": "null",
}
_PATH_SUFFIX = re.compile(r" - at `\$\.?(?P<path>.*)`$")
_MISSING = re.compile(r"Object missing required field `(?P<field>.+)`$")
_TYPE = re.compile(r"Expected `(?P<expected>[^`]+)`, got `(?P<got>[^`]+)`$")
_BOUND = re.compile(r"Expected `(?P<kind>int|float)` (?P<op><=|>=|<|>) (?P<bound>\S+)$")
_LENGTH = re.compile(r"Expected `(?P<kind>array|str)` of length (?P<op><=|>=) (?P<bound>\d+)$")
_ENUM = re.compile(r"Invalid enum value (?P<value>.+)$")


def _explain(message: str) -> MalformedRequest:
    """Convert the message of a msgspec validation error to OpenAI's error; unit tests check msgspec's wording."""
    path_match = _PATH_SUFFIX.search(message)
    path = path_match["path"].replace("[...]", "") if path_match else ""
    problem = message[: path_match.start()] if path_match else message
    if match := _MISSING.match(problem):
        return missing(f"{path}.{match['field']}" if path else match["field"])
    if match := _TYPE.match(problem):
        expected = " or ".join(_NOUNS.get(word, word) for word in match["expected"].split(" | ") if word != "null")
        if not path:
            return MalformedRequest("The JSON body must be an object.", code="invalid_type")
        return wrong_type(path, expected, _NOUNS.get(match["got"], match["got"]))
    if match := _BOUND.match(problem):
        return _out_of_range(path, match)
    if match := _LENGTH.match(problem):
        return _wrong_length(path, match)
    if match := _ENUM.match(problem):
        return MalformedRequest(f"Invalid value for '{path}': {match['value']}.", param=path, code="invalid_value")
    return MalformedRequest(f"Invalid value: {problem}.", param=path or None, code="invalid_value")


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
        text = f"empty {noun}. Expected {_NOUNS[match['kind']]} with minimum length 1, but got an empty {noun} instead"
        return MalformedRequest(f"Invalid '{path}': {text}.", param=path, code=f"empty_{noun}")
    side = "below_min" if match["op"] == ">=" else "above_max"
    text = f"{noun} of the wrong length. Expected a length {match['op']} {match['bound']}"
    return MalformedRequest(f"Invalid '{path}': {text}.", param=path, code=f"{noun}_{side}_length")
