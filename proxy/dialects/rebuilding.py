"""Rebuilding JSON from what is known of its form: a `Take` keeps what fits, and what it does not know is left out.

All objects are written anew, so that no key that stands twice hides a value.
"""

import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

import msgspec
from msgspec import Raw

from proxy.dialects import media
from proxy.errors import MalformedRequest
from proxy.protocol.raw import as_list, as_object, as_text
from proxy.protocol.request import json_type

# Args: the value; where it stands, as `messages[0].content`; where the names of what is left out are noted.
# Returns: what is kept of it; None: nothing. It may raise `MalformedRequest`.
Take = Callable[[Raw, str, set[str]], Raw | None]

_encode = msgspec.json.Encoder().encode
_WORD = re.compile(r"[\w+-]{0,64}", re.ASCII)
_ADDRESS = re.compile(
    r"\s*(?:[a-z][a-z0-9+.-]*:\s*[/\\]|(?:file|data|ftp|https?|blob|s3|gs|hf):|[/\\]{2}|[a-z]:\\"
    r"|~?/[^/\s]+/\S|\.{1,2}[/\\])",
    re.IGNORECASE,
)
_REFERENCES = frozenset({"$ref", "$dynamicRef", "$recursiveRef"})
_MAY_REFER = (*(name.encode() for name in _REFERENCES), b"\\u00")  # the last one: letters may be escaped


def text(raw: Raw, _at: str, _lost: set[str]) -> Raw | None:
    """A string, which the model reads and nothing opens."""
    return raw if json_type(raw) == "string" else None


def word(raw: Raw, _at: str, _lost: set[str]) -> Raw | None:
    """A string of letters, digits and hyphens."""
    return raw if _WORD.fullmatch(as_text(raw) or " ") else None


def plain(raw: Raw, _at: str, _lost: set[str]) -> Raw | None:
    """A number or a boolean."""
    return raw if json_type(raw) in {"number", "boolean"} else None


def schema(raw: Raw, at: str, _lost: set[str]) -> Raw:
    """JSON of any form, in which only references into the same document are references.

    Raises:
        MalformedRequest: one leads elsewhere.
    """
    data = bytes(raw)
    if not any(mark in data for mark in _MAY_REFER):
        return raw
    value = msgspec.json.decode(data)
    if _refers_elsewhere(value):
        raise MalformedRequest(
            f"'{at}' refers to another document, which this model does not look up; use references that begin "
            "with '#'.",
            param=at,
            code="unsupported_reference",
        )
    return Raw(_encode(value))  # of keys that stand twice the one that was looked at


def fields(**known: Take) -> Take:
    """An object with these fields."""

    def take(raw: Raw, at: str, lost: set[str]) -> Raw | None:
        return None if json_type(raw) != "object" else Raw(_encode(keep(as_object(raw), known, at, lost)))

    return take


def keep(given: Mapping[str, Raw], known: Mapping[str, Take], at: str, lost: set[str]) -> dict[str, Raw]:
    """What is known of an object's fields."""
    kept = {}
    for name, value in given.items():
        take = known.get(name)
        found = None if take is None else take(value, f"{at}.{name}", lost)
        if found is None:
            lost.add(name)
        else:
            kept[name] = found
    return kept


def items(take_item: Take) -> Take:
    """An array of these."""

    def take(raw: Raw, at: str, lost: set[str]) -> Raw | None:
        if json_type(raw) != "array":
            return None
        found = [take_item(item, f"{at}[{place}]", lost) for place, item in enumerate(as_list(raw))]
        return Raw(_encode([item for item in found if item is not None]))

    return take


def fitting(decoder: msgspec.json.Decoder[Any], take: Take) -> Take:
    """As it stands where a decoder that knows the fields and takes no others reads it; else rebuilt."""

    def take_fitting(raw: Raw, at: str, lost: set[str]) -> Raw | None:
        data = bytes(raw)
        if not any(mark in data for mark in _MAY_REFER):
            with suppress(msgspec.ValidationError):
                decoder.decode(data)
                return raw
        return take(raw, at, lost)

    return take_fitting


def either(*takes: Take) -> Take:
    """What the first of these that fits keeps."""

    def take(raw: Raw, at: str, lost: set[str]) -> Raw | None:
        return next((found for each in takes if (found := each(raw, at, lost)) is not None), None)

    return take


def address(raw: Raw, at: str, lost: set[str]) -> Raw:
    """A `data:` URL, bare or as an object's `url`, as such an object.

    Raises:
        MalformedRequest: it is another address, or none.
    """
    given = {"url": raw} if json_type(raw) == "string" else as_object(raw)
    kept = keep(given, _OF_ADDRESS, at, lost)
    url = media.data_url(as_text(kept.get("url")) or "")
    if url is None:
        raise no_address(at)
    return Raw(_encode(kept | {"url": url}))


_OF_ADDRESS: Mapping[str, Take] = {
    "url": text,
    "detail": word,
    "max_dynamic_patch": plain,  # SGLang's
    "min_dynamic_patch": plain,
}


def base64_text(raw: Raw, at: str, _lost: set[str]) -> Raw:
    """Bytes as base64.

    Raises:
        MalformedRequest: it is none.
    """
    found = media.plain_base64(as_text(raw) or "-.")
    if found is None:
        raise no_address(at)
    return Raw(_encode(found))


def no_address(at: str) -> MalformedRequest:
    """The error for anything but the bytes themselves."""
    return MalformedRequest(
        "This model runs on a local engine, which may not open addresses or files. Send the bytes: "
        "'data:TYPE;base64,...' as a URL, base64 as data.",
        param=at,
        code=f"unsupported_{at.rpartition('.')[2]}",
    )


def has_address(value: Any) -> bool:  # noqa: ANN401 - JSON of any form
    """Whether any string in it is the address of something, or the path of a file."""
    if isinstance(value, str):
        return _ADDRESS.match(value) is not None
    if isinstance(value, list):
        return any(map(has_address, value))
    return isinstance(value, dict) and any(has_address(item) for pair in value.items() for item in pair)


def _refers_elsewhere(value: Any) -> bool:  # noqa: ANN401 - JSON of any form
    """Strings may be schemas too (SGLang, vLLM)."""
    if isinstance(value, str):
        return value.lstrip().startswith("{") and _text_refers_elsewhere(value)
    if isinstance(value, list):
        return any(map(_refers_elsewhere, value))
    if not isinstance(value, dict):
        return False
    return any((name in _REFERENCES and _is_elsewhere(item)) or _refers_elsewhere(item) for name, item in value.items())


def _is_elsewhere(reference: Any) -> bool:  # noqa: ANN401 - JSON of any form
    """Of several, which no standard knows, any one."""
    named = reference if isinstance(reference, list) else [reference]
    return any(isinstance(each, str) and not each.startswith("#") for each in named)


def _text_refers_elsewhere(text: str) -> bool:
    try:
        return _refers_elsewhere(msgspec.json.decode(text))
    except (msgspec.DecodeError, UnicodeEncodeError):
        return False
