"""llama-cpp-python's server (contract B.5)."""

from msgspec import Raw

from proxy.dialects.base import ONLY_OPENAI, Dialect
from proxy.dialects.draft import Draft
from proxy.dialects.messages import Rules
from proxy.dialects.thinking import Thinking


def _put_thinking(_draft: Draft, _thinking: Thinking) -> None:
    """It has no switch."""


def _adjust(draft: Draft) -> None:
    """Row 110: its default of 1.1 punishes repetition, which nobody asked for."""
    draft.fields.setdefault("repeat_penalty", Raw(b"1.0"))


DIALECT = Dialect(
    name="llama_cpp_python",
    rules=Rules(merges_system=True, takes_null_content=False),
    lacks=ONLY_OPENAI | {"n", "chat_template_kwargs"},
    max_tokens="max_tokens",
    default_max_tokens=4096,  # row 109: without one it goes on to the end of its window
    fetches_urls=False,
    structured="json_object",
    may_lack_parser=True,
    put_thinking=_put_thinking,
    asks_usage=False,
    adjust=_adjust,
)
