"""Text Generation Inference (contract B.7)."""

from typing import Any

import msgspec
from msgspec import Raw

from tidegate.dialects import events, failures
from tidegate.dialects.base import ONLY_OPENAI, Dialect
from tidegate.dialects.messages import Rules
from tidegate.dialects.request_draft import RequestDraft
from tidegate.dialects.thinking import put_no_switch
from tidegate.errors import UpstreamRejected
from tidegate.protocol.chat import Chunk
from tidegate.protocol.raw import as_object, as_text

_encode = msgspec.json.Encoder().encode
# The beginnings of TGI's error messages that are not the caller's fault, and the status of each outside a stream.
_FAILURE_STATUSES = {"Model is overloaded": 429, "Request failed during generation": 424, "Incomplete generation": 500}


def _parse(data: bytes) -> Chunk:
    """Read an event; correct the status of an error, as TGI reports every error in a stream as 422 (row 133).

    Raises:
        ProxyError: the event is an error.
    """
    try:
        return events.parse(data)
    except UpstreamRejected as error:
        for beginning, status in _FAILURE_STATUSES.items():
            if error.message.startswith(beginning):
                raise failures.parse_error(status, {}, data) from error
        raise


def _adjust(draft: RequestDraft) -> None:
    _add_schema(draft)
    draft.messages = [
        {name: _escape_images(draft, value) for name, value in message.items()} for message in draft.messages
    ]
    _adjust_completion(draft)


def _adjust_completion(draft: RequestDraft) -> None:
    draft.fields = {name: _escape_images(draft, value) for name, value in draft.fields.items()}


def _add_schema(draft: RequestDraft) -> None:
    """Add a schema to `json_object`, as TGI's JSON grammar requires one beside the type."""
    if as_text(as_object(draft.fields.get("response_format")).get("type")) == "json_object":
        draft.put("response_format", {"type": "json_object", "value": draft.schema or Raw(b'{"type":"object"}')})


def _escape_images(draft: RequestDraft, raw: Raw) -> Raw:
    """Escape `![](…)` in a value: if its model has vision, TGI reads it anywhere in the prompt as an image to fetch."""
    value = msgspec.json.decode(raw)
    escaped = _escape(value)
    if escaped == value:
        return raw
    encoded = _encode(escaped)
    if b"![ ](" in encoded:
        draft.note("pictures", "escaped")
    return Raw(encoded)


def _escape(value: Any) -> Any:  # noqa: ANN401 - JSON of any shape
    if isinstance(value, str):
        return value.replace("![](", "![ ](")
    if isinstance(value, list):
        return [_escape(item) for item in _join_texts(value)]
    if isinstance(value, dict):
        return {_escape(name): _escape(item) for name, item in value.items()}
    return value


def _join_texts(parts: list[Any]) -> list[Any]:
    """Join neighbouring text parts, as TGI joins them without a separator, so that `![](` may be split among them."""
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
    unsupported_fields=ONLY_OPENAI | {"logit_bias", "chat_template_kwargs"},
    max_tokens="max_tokens",
    fetches_urls=False,
    structured="json_object",
    may_lack_parser=True,
    leaks_markup=True,
    put_thinking=put_no_switch,
    adjust=_adjust,
    adjust_completion=_adjust_completion,
    parse=_parse,
    has_positional_call_ids=True,  # TGI gives every call the id 0
)
