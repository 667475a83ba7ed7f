"""Text Generation Inference (contract B.7)."""

from typing import Any

import msgspec
from msgspec import Raw

from tidegate.dialects import events, failures
from tidegate.dialects.base import ONLY_OPENAI, Dialect
from tidegate.dialects.draft import Draft
from tidegate.dialects.messages import Rules
from tidegate.dialects.thinking import put_nothing
from tidegate.errors import UpstreamRejected
from tidegate.protocol.chat import Chunk
from tidegate.protocol.raw import as_object, as_text

_encode = msgspec.json.Encoder().encode
# how its messages begin that tell of no fault of the caller's, and the status of each outside of a stream
_FAILURES = {"Model is overloaded": 429, "Request failed during generation": 424, "Incomplete generation": 500}


def _parse(data: bytes) -> Chunk:
    """Row 133: whatever goes wrong in a stream, TGI says 422.

    Raises:
        ProxyError: it is an error object.
    """
    try:
        return events.parse(data)
    except UpstreamRejected as error:
        for words, status in _FAILURES.items():
            if error.message.startswith(words):
                raise failures.parse_error(status, {}, data) from error
        raise


def _adjust(draft: Draft) -> None:
    _give_schema(draft)
    draft.messages = [
        {name: _without_pictures(draft, value) for name, value in message.items()} for message in draft.messages
    ]
    _adjust_completion(draft)


def _adjust_completion(draft: Draft) -> None:
    draft.fields = {name: _without_pictures(draft, value) for name, value in draft.fields.items()}


def _give_schema(draft: Draft) -> None:
    """Its JSON grammar wants a schema beside the type."""
    if as_text(as_object(draft.fields.get("response_format")).get("type")) == "json_object":
        draft.put("response_format", {"type": "json_object", "value": draft.schema or Raw(b'{"type":"object"}')})


def _without_pictures(draft: Draft, raw: Raw) -> Raw:
    """Where its model sees, TGI takes `![](address)` for a picture, wherever in the prompt, and fetches it."""
    value = msgspec.json.decode(raw)
    mended = _mend(value)
    if mended == value:
        return raw
    encoded = _encode(mended)
    if b"![ ](" in encoded:
        draft.note("pictures", "escaped")
    return Raw(encoded)


def _mend(value: Any) -> Any:  # noqa: ANN401 - JSON of any shape
    if isinstance(value, str):
        return value.replace("![](", "![ ](")
    if isinstance(value, list):
        return [_mend(item) for item in _join_texts(value)]
    if isinstance(value, dict):
        return {_mend(name): _mend(item) for name, item in value.items()}
    return value


def _join_texts(parts: list[Any]) -> list[Any]:
    """Neighbours become one part, as TGI puts them end to end."""
    joined: list[Any] = []
    for part in parts:
        if joined and _is_text(part) and _is_text(joined[-1]):
            joined[-1] = part | {"text": joined[-1]["text"] + part["text"]}
        else:
            joined.append(part)
    return joined


def _is_text(part: Any) -> bool:  # noqa: ANN401 - JSON of any shape
    return isinstance(part, dict) and part.get("type") == "text" and isinstance(part.get("text"), str)


DIALECT = Dialect(
    name="tgi",
    rules=Rules(merges_system=True, takes_null_content=False),  # row 135
    lacks=ONLY_OPENAI | {"logit_bias", "chat_template_kwargs"},
    max_tokens="max_tokens",
    fetches_urls=False,
    structured="json_object",
    may_lack_parser=True,
    leaks_markup=True,
    put_thinking=put_nothing,
    adjust=_adjust,
    adjust_completion=_adjust_completion,
    parse=_parse,
    numbers_calls=True,  # every call has the id 0
)
