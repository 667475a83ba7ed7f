"""Text Generation Inference (contract B.7)."""

from msgspec import Raw

from proxy.dialects import events, failures
from proxy.dialects.base import ONLY_OPENAI, Dialect
from proxy.dialects.draft import Draft
from proxy.dialects.messages import Rules
from proxy.dialects.thinking import Thinking
from proxy.errors import UpstreamRejected
from proxy.protocol.chat import Chunk
from proxy.protocol.raw import as_object, as_text

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


def _put_thinking(_draft: Draft, _thinking: Thinking) -> None:
    """It has no switch."""


def _adjust(draft: Draft) -> None:
    """Its JSON grammar wants a schema beside the type."""
    if as_text(as_object(draft.fields.get("response_format")).get("type")) == "json_object":
        draft.put("response_format", {"type": "json_object", "value": draft.schema or Raw(b'{"type":"object"}')})


DIALECT = Dialect(
    name="tgi",
    rules=Rules(merges_system=True, takes_null_content=False),  # row 135
    lacks=ONLY_OPENAI | {"logit_bias", "chat_template_kwargs"},
    max_tokens="max_tokens",
    fetches_urls=False,
    structured="json_object",
    may_lack_parser=True,
    put_thinking=_put_thinking,
    adjust=_adjust,
    parse=_parse,
    numbers_calls=True,  # every call has the id 0
)
