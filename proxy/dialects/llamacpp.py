"""llama.cpp's server (contract B.4)."""

from proxy.dialects.base import ONLY_OPENAI, Dialect
from proxy.dialects.draft import Draft
from proxy.dialects.messages import Rules, role_of, set_text, text_of
from proxy.dialects.thinking import Thinking, put_template_switch
from proxy.dialects.tools import ALL_CHOICES
from proxy.errors import MalformedRequest, UnsupportedParameter


def _put_thinking(draft: Draft, thinking: Thinking) -> None:
    """The template listens, to a boolean (row 105b); it knows no degrees."""
    if thinking.is_on is not None:
        put_template_switch(draft, ("enable_thinking",), is_on=thinking.is_on)


def _adjust(draft: Draft) -> None:
    if "tools" in draft.fields and bytes(draft.fields.get("logprobs", b"false")) == b"true":
        # row 100: it answers an error, as we always ask it for a stream
        raise UnsupportedParameter(
            "Unsupported parameter: 'logprobs' is not supported together with 'tools' with this model.",
            param="logprobs",
        )
    _join_tail(draft)


def _join_tail(draft: Draft) -> None:
    """Row 101: an assistant message at the end is gone on with; two are refused, and so is one that calls tools.

    Raises:
        MalformedRequest: it calls tools.
    """
    messages = draft.messages
    if role_of(messages[-1]) == "assistant" and "tool_calls" in messages[-1]:
        raise MalformedRequest("The last message calls tools, but no message holds their results.", param="messages")
    while len(messages) > 1 and role_of(messages[-1]) == role_of(messages[-2]) == "assistant":
        last, before = text_of(messages[-1]), text_of(messages[-2])
        if last is None or before is None or "tool_calls" in messages[-2]:
            return
        set_text(messages[-2], f"{before}\n{last}")
        messages.pop()


DIALECT = Dialect(
    name="llamacpp",
    rules=Rules(reasoning="reasoning_content", merges_system=True),
    lacks=ONLY_OPENAI | {"best_of", "suffix"},  # row 104
    max_tokens="max_tokens",
    tool_choices=ALL_CHOICES - {"named"},  # row 98: it would be read as "auto"
    fetches_urls=False,
    leaves_template=True,
    may_lack_parser=True,
    put_thinking=_put_thinking,
    adjust=_adjust,
)
