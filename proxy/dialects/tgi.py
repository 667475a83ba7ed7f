"""Text Generation Inference (contract B.7)."""

from msgspec import Raw

from proxy.dialects.base import ONLY_OPENAI, Dialect
from proxy.dialects.draft import Draft
from proxy.dialects.messages import Rules
from proxy.dialects.thinking import Thinking
from proxy.protocol.raw import as_object, as_text


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
)
