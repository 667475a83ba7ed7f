"""Rules that rebuild a JSON value from an allow-list: a field without a `Rule` is dropped.

Every object is encoded anew, so that a duplicate key cannot hide a value from the checks.
"""

import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

import msgspec
from msgspec import Raw

from tidegate.dialects import media
from tidegate.errors import MalformedRequest
from tidegate.protocol.raw import as_list, as_object, as_text
from tidegate.protocol.request import json_type

# A rule takes the value, its path, such as `messages[0].content`, and a set, to which it adds the names of dropped
# fields. It returns the rebuilt value, or None if the value is dropped. It may raise `MalformedRequest`.
Rule = Callable[[Raw, str, set[str]], Raw | None]

_encode = msgspec.json.Encoder().encode
_WORD = re.compile(r"[\w+-]{0,64}", re.ASCII)
_ADDRESS = re.compile(
    r"\s*(?:[a-z][a-z0-9+.-]*:\s*[/\\]|(?:file|data|ftp|https?|blob|s3|gs|hf):|[/\\]{2}|[a-z]:\\"
    r"|~?/[^/\s]+/\S|\.{1,2}[/\\])",
    re.IGNORECASE,
)
_REFERENCES = frozenset({"$ref", "$dynamicRef", "$recursiveRef"})
_MAY_HOLD_REFERENCE = (*(name.encode() for name in _REFERENCES), b"\\u00")  # a key may be written with escapes


def text(raw: Raw, _at: str, _dropped: set[str]) -> Raw | None:
    """A rule for a string that only the model reads."""
    return raw if json_type(raw) == "string" else None


def word(raw: Raw, _at: str, _dropped: set[str]) -> Raw | None:
    """A rule for a string of at most 64 letters, digits, `_`, `+` and `-`."""
    return raw if _WORD.fullmatch(as_text(raw) or " ") else None  # " " is not a word


def scalar(raw: Raw, _at: str, _dropped: set[str]) -> Raw | None:
    """A rule for a number or a boolean."""
    return raw if json_type(raw) in {"number", "boolean"} else None


def schema(raw: Raw, at: str, _dropped: set[str]) -> Raw:
    """A rule for any JSON, such as a schema, whose references all point into the same document.

    Raises:
        MalformedRequest: a reference points elsewhere.
    """
    data = bytes(raw)
    if not any(mark in data for mark in _MAY_HOLD_REFERENCE):
        return raw
    value = msgspec.json.decode(data)
    if _refers_elsewhere(value):
        raise MalformedRequest(
            f"'{at}' refers to another document, which this model does not look up; use references that begin "
            "with '#'.",
            param=at,
            code="unsupported_reference",
        )
    return Raw(_encode(value))  # encoded anew, so that of duplicate keys only the checked one is kept


def fields(**known: Rule) -> Rule:
    """Return a rule for an object with these fields."""

    def apply(raw: Raw, at: str, dropped: set[str]) -> Raw | None:
        return None if json_type(raw) != "object" else Raw(_encode(keep_known(as_object(raw), known, at, dropped)))

    return apply


def keep_known(given: Mapping[str, Raw], known: Mapping[str, Rule], at: str, dropped: set[str]) -> dict[str, Raw]:
    """Return the fields of an object for which `known` has a rule, rebuilt; the names of others go into `dropped`."""
    kept = {}
    for name, value in given.items():
        rule = known.get(name)
        found = None if rule is None else rule(value, f"{at}.{name}", dropped)
        if found is None:
            dropped.add(name)
        else:
            kept[name] = found
    return kept


def items(rule: Rule) -> Rule:
    """Return a rule for an array whose items all have the rule `rule`; items that it drops are left out."""

    def apply(raw: Raw, at: str, dropped: set[str]) -> Raw | None:
        if json_type(raw) != "array":
            return None
        found = [rule(item, f"{at}[{place}]", dropped) for place, item in enumerate(as_list(raw))]
        return Raw(_encode([item for item in found if item is not None]))

    return apply


def unchanged_if(decoder: msgspec.json.Decoder[Any], rule: Rule) -> Rule:
    """Return a rule that keeps a value if the strict `decoder` accepts it, which is fast, and else applies `rule`."""

    def apply(raw: Raw, at: str, dropped: set[str]) -> Raw | None:
        data = bytes(raw)
        if not any(mark in data for mark in _MAY_HOLD_REFERENCE):
            with suppress(msgspec.ValidationError):
                decoder.decode(data)
                return raw
        return rule(raw, at, dropped)

    return apply


def either(*rules: Rule) -> Rule:
    """Return a rule that applies the first of these rules that does not drop the value."""

    def apply(raw: Raw, at: str, dropped: set[str]) -> Raw | None:
        return next((found for each in rules if (found := each(raw, at, dropped)) is not None), None)

    return apply


def address(raw: Raw, at: str, dropped: set[str]) -> Raw:
    """A rule for an object whose `url` is a `data:` URL; a bare string becomes such an object.

    Raises:
        MalformedRequest: the URL is missing or is not a `data:` URL.
    """
    given = {"url": raw} if json_type(raw) == "string" else as_object(raw)
    kept = keep_known(given, _ADDRESS_KEYS, at, dropped)
    url = media.data_url(as_text(kept.get("url")) or "")
    if url is None:
        raise not_inline(at)
    return Raw(_encode(kept | {"url": url}))


_ADDRESS_KEYS: Mapping[str, Rule] = {
    "url": text,
    "detail": word,
    "max_dynamic_patch": scalar,  # a field of SGLang
    "min_dynamic_patch": scalar,  # a field of SGLang
}


def base64_text(raw: Raw, at: str, _dropped: set[str]) -> Raw:
    """A rule for base64.

    Raises:
        MalformedRequest: the value is not base64.
    """
    found = media.plain_base64(as_text(raw) or "-.")  # "-." is not base64
    if found is None:
        raise not_inline(at)
    return Raw(_encode(found))


def not_inline(at: str) -> MalformedRequest:
    """Return the error for media that are not sent as bytes inside the request."""
    return MalformedRequest(
        "This model runs on a local engine, which may not open addresses or files. Send the bytes: "
        "'data:TYPE;base64,...' as a URL, base64 as data.",
        param=at,
        code=f"unsupported_{at.rpartition('.')[2]}",
    )


def has_address(value: Any) -> bool:  # noqa: ANN401 - JSON of any form
    """Return whether any string in the value looks like a URL or a file path."""
    if isinstance(value, str):
        return _ADDRESS.match(value.lstrip()) is not None
    if isinstance(value, list):
        return any(map(has_address, value))
    return isinstance(value, dict) and any(has_address(item) for pair in value.items() for item in pair)


def _refers_elsewhere(value: Any) -> bool:  # noqa: ANN401 - JSON of any form
    """Return whether a reference points outside the document; strings may hold schemas too (SGLang, vLLM)."""
    if isinstance(value, str):
        text = value.lstrip().lstrip("\ufeff")
        return text.startswith("{") and _text_refers_elsewhere(text)
    if isinstance(value, list):
        return any(map(_refers_elsewhere, value))
    if not isinstance(value, dict):
        return False
    return any((name in _REFERENCES and _is_elsewhere(item)) or _refers_elsewhere(item) for name, item in value.items())


def _is_elsewhere(reference: Any) -> bool:  # noqa: ANN401 - JSON of any form
    """Return whether a reference points outside the document. Lists are checked too, though no standard allows them."""
    named = reference if isinstance(reference, list) else [reference]
    return any(isinstance(each, str) and not each.startswith("#") for each in named)


def _text_refers_elsewhere(text: str) -> bool:
    """Return whether a reference in JSON text points outside the document.

    In text that is not strict JSON any reference counts, as the engine's parser may be more lenient.
    """
    try:
        return _refers_elsewhere(msgspec.json.decode(text))
    except (msgspec.DecodeError, UnicodeEncodeError):
        return any(f'"{name}"' in text for name in _REFERENCES)
